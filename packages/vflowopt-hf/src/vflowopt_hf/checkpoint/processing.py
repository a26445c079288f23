"""Questions about images to model inputs, where transformers' own processor class cannot be used.

Upstream's processors hold a video processor, which needs torchvision. For images neither is needed: the image processor
makes the pixels, the family says how many visual tokens they become, and each placeholder is repeated that often.
"""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vflowopt.errors import InputError
from vflowopt_hf.family import Family


class ImageTextProcessor:
    """Image processor and tokenizer of a checkpoint, called like upstream's processors, for one prompt with images.

    Args:
        family: knows how many visual tokens an image becomes.
        model: the model that the inputs are for.
        image_processor: the checkpoint's image processor.
        tokenizer: the checkpoint's tokenizer, with its chat template.
    """

    def __init__(self, family: Family, model: Any, image_processor: Any, tokenizer: Any) -> None:
        self._family, self._model = family, model
        self.image_processor, self.tokenizer = image_processor, tokenizer

    @classmethod
    def load(cls, family: Family, model: Any, source: str | Path) -> "ImageTextProcessor":
        """Read both from a checkpoint.

        Raises:
            OSError, ValueError, ImportError: whatever transformers raises.
        """
        from transformers import AutoImageProcessor, AutoTokenizer

        return cls(family, model, AutoImageProcessor.from_pretrained(source), AutoTokenizer.from_pretrained(source))

    def __call__(
        self, *, images: Sequence[Any] = (), text: str, videos: Sequence[Any] = (), return_tensors: str = "pt"
    ) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and the image processor's output, batch size 1.

        With ``mm_token_type_ids``, if the model takes them.

        Args:
            images: PIL images, or one list that holds those of the prompt.
            text: the prompt, with one placeholder per image.
            videos: none.
            return_tensors: ``"pt"``.

        Raises:
            InputError: there are videos, no images, or not one placeholder per image.
        """
        if videos:
            raise InputError(
                "transformers' video processors need torchvision, which is not installed: install it to ask about "
                "videos, or give some of their frames as images: --image"
            )
        if not images:
            raise InputError("there is no image to ask about")
        pixels: Mapping[str, Any] = self.image_processor(images=list(images), return_tensors=return_tensors)
        lengths = [unit.layout.tokens for unit in self._family.units(self._model, "image", pixels)]
        placeholder = self._family.placeholder_ids(self._model)["image"]
        ids = self.tokenizer(text)["input_ids"]
        if ids.count(placeholder) != len(lengths):
            raise InputError(f"the prompt has {ids.count(placeholder)} image placeholders for {len(lengths)} images")
        left = iter(lengths)
        expanded = [part for each in ids for part in ([each] * (next(left) if each == placeholder else 1))]
        input_ids = torch.tensor([expanded])
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), **pixels}
        if "mm_token_type_ids" in inspect.signature(self._model.forward).parameters:
            inputs["mm_token_type_ids"] = (input_ids == placeholder).long()  # 0 for text, 1 for images
        return inputs

    def apply_chat_template(self, conversation: Any, *, add_generation_prompt: bool = True) -> str:
        """The conversation as text, not tokenized.

        Raises:
            InputError: the tokenizer has no chat template.
        """
        try:
            text = self.tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except ValueError as error:
            raise InputError(f"the checkpoint has no chat template: {error}") from error
        return str(text)

    def batch_decode(self, ids: Any, *, skip_special_tokens: bool = True) -> list[str]:
        """Rows of token ids to texts."""
        return [str(text) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=skip_special_tokens)]
