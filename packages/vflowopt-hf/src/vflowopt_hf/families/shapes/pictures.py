"""Pictures and prompts for models with random weights: sizes that give about so many visual tokens."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image

from vflowopt_hf.family import Family

Size = tuple[int, int]
"""Height and width in pixels."""

_TEXT = 64
"""Token ids of text are below."""


def picture(size: Size) -> Image.Image:
    """Smooth colours, edges and noise: attention and entropy differ from patch to patch."""
    height, width = size
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    waves = 127 + 60 * np.sin(x / 37)[..., None] * np.array([1, 0.5, -1]) + 50 * np.cos(y / 23)[..., None]
    waves[(x // 96 + y // 64) % 3 == 0] += rng.normal(0, 40, 3)
    return Image.fromarray(np.clip(waves + rng.normal(0, 8, waves.shape), 0, 255).astype(np.uint8))


def nearest_size(wanted: int, sizes: Iterable[Size], tokens: Callable[[Size], int]) -> Size:
    """The size that gives a number of visual tokens closest to ``wanted``; of several, the one nearest to a square."""
    return min(sizes, key=lambda size: (abs(tokens(size) - wanted), max(size) / min(size), size))


def prompt(family: Family, model: Any, pixels: Mapping[str, Any], text_tokens: int) -> dict[str, Any]:
    """Model inputs of batch size 1: some text, one image, the rest of the text.

    Args:
        family: of the model.
        model: where the inputs are to go; gives the id of placeholders.
        pixels: output of the family's image processor for one image.
        text_tokens: text tokens; ids are random.
    """
    image, before = family.placeholder_ids(model)["image"], min(8, text_tokens)
    (unit,) = family.units(model, "image", pixels)
    text = np.random.default_rng(0).integers(3, _TEXT, text_tokens)
    ids = torch.from_numpy(np.concatenate([text[:before], np.full(unit.layout.tokens, image), text[before:]]))[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}
    return {
        name: value.to(model.device, model.dtype) if value.is_floating_point() else value.to(model.device)
        for name, value in inputs.items()
    }
