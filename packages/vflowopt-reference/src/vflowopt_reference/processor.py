"""Images, clips and text to what the model takes, without torchvision.

``AutoProcessor`` needs torchvision, because upstream's processor class holds a video processor. This one holds
upstream's PIL image processor and the tokenizer, expands placeholders by upstream's arithmetic, and is called alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers import BatchFeature, PreTrainedTokenizerFast

from .architectures import Architecture, of_weights
from .vocabulary import IMAGE, VIDEO

Clip = Sequence[Image.Image] | NDArray[np.uint8]
Images = Image.Image | Sequence[Image.Image] | Sequence[Sequence[Image.Image]]


class ReferenceProcessor:
    """Called like the architecture's own processor upstream; see :meth:`__call__`."""

    image_token = IMAGE
    video_token = VIDEO

    def __init__(self, architecture: Architecture, image_processor: Any, tokenizer: Any) -> None:
        self.architecture = architecture
        self.image_processor = image_processor
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, directory: Path | str) -> ReferenceProcessor:
        """Reads the files that ``vflowopt_reference.train`` wrote.

        Raises:
            OSError: files are missing.
            ValueError: weights of another architecture.
        """
        architecture = of_weights(directory)
        return cls(
            architecture,
            architecture.image_processor_class.from_pretrained(directory),
            PreTrainedTokenizerFast.from_pretrained(directory),
        )

    @property
    def image_token_id(self) -> int:
        """Id of the placeholder that visual tokens of images replace."""
        return int(self.tokenizer.convert_tokens_to_ids(IMAGE))

    @property
    def video_token_id(self) -> int:
        """Id of the placeholder that visual tokens of clips replace."""
        return int(self.tokenizer.convert_tokens_to_ids(VIDEO))

    def __call__(
        self,
        images: Images | None = None,
        text: str | Sequence[str] | None = None,
        videos: Sequence[Clip] | None = None,
        *,
        return_tensors: str = "pt",
        padding: bool | str = True,
    ) -> BatchFeature:
        """Makes a batch of prompts.

        Args:
            images: one image, or a list with the images of all prompts one after the other, each treated as if alone
                in its prompt; or one list per prompt (LLaVA-OneVision does not tile images that share a prompt).
            text: prompts (see :meth:`prompt`), with one ``<image>`` per image and one ``<video>`` per clip.
            videos: clips, each a list of images or an array ``[frames, height, width, 3]`` of bytes; LLaVA-OneVision
                wants equally many frames of all.
            return_tensors: ``"pt"``.
            padding: pad prompts on the left to the longest.

        Returns:
            ``input_ids`` and ``attention_mask`` ``[B, T]``, and what the architecture makes of images and clips.

        Raises:
            ValueError: no text, or not one placeholder per image or clip, or clips that the architecture does not take.
        """
        if text is None:
            raise ValueError("text is needed: a prompt with one <image> per image")
        prompts = [text] if isinstance(text, str) else list(text)
        data: dict[str, Any] = {}
        lengths: dict[str, list[int]] = {IMAGE: [], VIDEO: []}
        if images is not None:
            pixels = self.image_processor(images, return_tensors=return_tensors)
            lengths[IMAGE] = self.architecture.image_lengths(pixels)
            data.update(pixels)
        if videos is not None:
            clips, lengths[VIDEO] = self.architecture.clips(videos)
            data.update(clips)
        expanded = _expand(prompts, lengths)
        tokens = self.tokenizer(expanded, return_tensors=return_tensors, padding=padding, return_token_type_ids=False)
        return BatchFeature({**tokens, **data, **self.architecture.further_inputs(tokens["input_ids"])})

    def prompt(self, question: str, images: int = 1, videos: int = 0) -> str:
        """The prompt for one question: the chat template with images first, then clips, then the question."""
        media = [{"type": "image"}] * images + [{"type": "video"}] * videos
        return self.apply_chat_template([{"role": "user", "content": [*media, {"type": "text", "text": question}]}])

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """A conversation as one prompt, not tokenized; contents are strings or lists of typed parts."""
        return str(
            self.tokenizer.apply_chat_template(
                list(conversation), tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def decode(self, ids: Any, *, skip_special_tokens: bool = True) -> str:
        """Token ids to text."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    def batch_decode(self, ids: Any, *, skip_special_tokens: bool = True) -> list[str]:
        """Rows of token ids to texts."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in ids]


def _expand(prompts: list[str], lengths: Mapping[str, list[int]]) -> list[str]:
    """Repeats each placeholder as often as its image or clip has visual tokens."""
    for token, each in lengths.items():
        found = sum(prompt.count(token) for prompt in prompts)
        if found != len(each):
            what = "images" if token == IMAGE else "clips"
            raise ValueError(f"the text has {found} {token} placeholders, but {len(each)} {what} were given")
        remaining: Iterator[int] = iter(each)
        prompts = [_repeat(prompt, token, remaining) for prompt in prompts]
    return prompts


def _repeat(prompt: str, token: str, lengths: Iterator[int]) -> str:
    first, *rest = prompt.split(token)
    return first + "".join(token * next(lengths) + part for part in rest)
