"""Sizes of images by the visual tokens that an anyres model makes of them."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch

from vflowopt_hf.families.shapes.pictures import Size, nearest_size
from vflowopt_hf.family import Family


def anyres_size(family: Family, model: Any, visual_tokens: int) -> Size:
    """Height and width, of usual proportions, that give about so many visual tokens, separators included."""

    def tokens(size: Size) -> int:
        # The layout follows from the size of the image; pixels are only looked at for entropy.
        arguments = {"pixel_values": torch.empty(1, 1, 3, 0, 0), "image_sizes": torch.tensor([size])}
        (unit,) = family.units(model, "image", arguments)
        return unit.layout.tokens

    side = model.config.vision_config.image_size
    step, largest = side // 12, max(max(grid) for grid in model.config.image_grid_pinpoints)
    rough = nearest_size(visual_tokens, _sizes(range(side // 2, max(side, largest // 2) + 1, step)), tokens)
    heights, widths = (range(max(1, length - step), length + step + 1, max(1, step // 8)) for length in rough)
    return nearest_size(visual_tokens, product(heights, widths), tokens)


def _sizes(lengths: range) -> Iterator[Size]:
    """At most twice as wide as high, and the other way round."""
    return (
        (height, width) for height, width in product(lengths, lengths) if height <= 2 * width and width <= 2 * height
    )
