"""Questions about images to model inputs, also where transformers' own processor cannot be had.

Upstream's processors of most families hold a video processor, which needs torchvision. For images it is not needed: the
image processor makes the pixels, the family says how many visual tokens they become, and each placeholder is repeated
that often.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature

from vflowopt.discovery.wrapping import unwrap
from vflowopt.errors import InputError, UnsupportedModelError, VFlowOptError
from vflowopt.plugins import find_adapter
from vflowopt_hf.checkpoint.causes import cause
from vflowopt_hf.family import Family

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""Files of which every processor of images has one."""


def load_processor(source: str | Path, model: Any) -> Any:
    """The processor of a checkpoint: transformers' own or, without torchvision, one that takes images only.

    Both are called alike, ``processor(images=[image], text=prompt, return_tensors="pt")``, and both have
    ``apply_chat_template``, ``decode`` and ``batch_decode``. The one for images only takes one prompt at a time.

    Args:
        source: directory or hub id of the checkpoint.
        model: the model that the inputs are for.

    Returns:
        What ``AutoProcessor.from_pretrained`` gives, or an :class:`ImageTextProcessor`.

    Raises:
        InputError: neither can be had; names the cause.
        UnsupportedModelError: no adapter, or more than one, supports the model, or it is made of no :class:`Family`.
    """
    adapter = find_adapter(model)
    family = getattr(adapter, "family", None)
    if not isinstance(family, Family):
        raise UnsupportedModelError(f"adapter {adapter.name!r} is made of no vflowopt_hf.Family; use AutoProcessor")
    return processor_of(family, unwrap(model), source)


def processor_of(family: Family, model: Any, source: str | Path, make: Callable[[], Any] | None = None) -> Any:
    """:func:`load_processor` with the family at hand; ``make`` makes the processor where the ordinary one does not do.

    Raises:
        InputError: see :func:`load_processor`.
    """
    try:
        processor = make() if make else _load(family, model, source)
    except VFlowOptError:
        raise
    except Exception as error:  # whatever a damaged file sets off in upstream's code
        raise InputError(
            f"cannot load the processor of {str(source)!r}: {cause(error)}; check the files of its tokenizer and image "
            f"processor, or download it again"
        ) from error
    _check_tokenizer(family, model, source, getattr(processor, "tokenizer", None))
    return processor


def _load(family: Family, model: Any, source: str | Path) -> Any:
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(source)
    except ImportError as error:
        return ImageTextProcessor.load(family, model, source, missing=error)


def _check_tokenizer(family: Family, model: Any, source: str | Path, tokenizer: Any) -> None:
    """Refuse a tokenizer that lacks the model's placeholder of images: it is empty, or of another model."""
    if tokenizer is None:
        return
    placeholder = family.placeholder_ids(model).get("image")
    if not isinstance(placeholder, int) or not 0 <= placeholder < len(tokenizer):
        raise InputError(
            f"{str(source)!r} has no tokenizer, or that of another model: it knows {len(tokenizer)} tokens, and number "
            f"{placeholder!r} stands for images in config.json; add the tokenizer.json that belongs to it"
        )


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
    def load(cls, family: Family, model: Any, source: str | Path, missing: ImportError) -> "ImageTextProcessor":
        """Read both from a checkpoint.

        Args:
            family: of the model.
            model: the model that the inputs are for.
            source: directory or hub id.
            missing: why upstream's processor cannot be had.

        Raises:
            InputError: upstream's processor of the family does more to a prompt than to repeat placeholders.
            Exception: whatever transformers raises.
        """
        from transformers import AutoImageProcessor, AutoTokenizer

        if not family.repeats_placeholders:
            raise InputError(
                f"{family.name} models need transformers' own processor, which mostly needs torchvision: pip install "
                f"torchvision; it cannot be loaded: {cause(missing)}"
            )
        return cls(family, model, AutoImageProcessor.from_pretrained(source), AutoTokenizer.from_pretrained(source))

    def __call__(
        self,
        images: Image.Image | Sequence[Any] = (),
        text: str | Sequence[str] = "",
        videos: Sequence[Any] = (),
        *,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """``input_ids``, ``attention_mask`` and the image processor's output, batch size 1.

        With ``mm_token_type_ids``, if the model takes them. ``.to(device, dtype)`` moves all, and casts the pixels.

        Args:
            images: a PIL image, several, or one list that holds those of the prompt.
            text: the prompt, or a list of one, with one placeholder per image.
            videos: none.
            return_tensors: ``"pt"``.

        Raises:
            InputError: there are videos, no images, several prompts, or not one placeholder per image.
        """
        if videos:
            raise InputError(
                "transformers' video processors need torchvision, which is not installed: install it to ask about "
                "videos, or give some of their frames as images: --image"
            )
        given = [images] if isinstance(images, Image.Image) else list(images)
        if not given:
            raise InputError("there is no image to ask about")
        prompts = [text] if isinstance(text, str) else list(text)
        if len(prompts) != 1 or return_tensors != "pt":
            raise InputError(
                f"without torchvision, a processor takes one prompt at a time and returns tensors of torch; got "
                f"{len(prompts)} prompts and return_tensors={return_tensors!r}: pip install torchvision"
            )
        pixels: Mapping[str, Any] = self.image_processor(images=given, return_tensors="pt")
        lengths = [unit.layout.tokens for unit in self._family.units(self._model, "image", pixels)]
        placeholder = self._family.placeholder_ids(self._model)["image"]
        ids = self.tokenizer(prompts[0])["input_ids"]
        if ids.count(placeholder) != len(lengths):
            raise InputError(
                f"the prompt has {ids.count(placeholder)} image placeholders for {len(lengths)} images; it takes one "
                f"{self.tokenizer.convert_ids_to_tokens(placeholder)!r} for each, which apply_chat_template writes"
            )
        left = iter(lengths)
        expanded = [part for each in ids for part in ([each] * (next(left) if each == placeholder else 1))]
        input_ids = torch.tensor([expanded])
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), **pixels}
        if "mm_token_type_ids" in inspect.signature(self._model.forward).parameters:
            inputs["mm_token_type_ids"] = (input_ids == placeholder).long()  # 0 for text, 1 for images
        return BatchFeature(inputs)

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

    def decode(self, ids: Any, *, skip_special_tokens: bool = True) -> str:
        """One row of token ids to text."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))
