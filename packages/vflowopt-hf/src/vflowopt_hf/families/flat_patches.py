"""Images and videos of any size as a row of patches, beside which stand their sizes in patches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vflowopt.errors import InputError
from vflowopt_hf.pixels import PixelStatistics, image_entropy

Grid = tuple[int, int, int]
"""Temporal slices, and rows and columns of patches."""


def read_patches(modality: str, arguments: Mapping[str, Any]) -> Iterator[tuple[Tensor, Grid]]:
    """The patches and the grid of each image or video, in feature order.

    Args:
        modality: "image" or "video".
        arguments: of upstream's encoder.

    Raises:
        InputError: the grid sizes that the processor returns beside the pixels are missing.
    """
    grids = arguments.get(f"{modality}_grid_thw")
    if grids is None:
        raise InputError(f"{modality}_grid_thw is missing; pass everything that the processor returned")
    patches = arguments["pixel_values_videos" if modality == "video" else "pixel_values"]
    return _cut(patches, grids.tolist())


def _cut(patches: Tensor, grids: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Grid]]:
    start = 0
    for slices, rows, columns in grids:
        end = start + slices * rows * columns
        yield patches[start:end], (slices, rows, columns)
        start = end


def flat_entropy(
    patches: Tensor, side: int, statistics: PixelStatistics, *, views: int = 1, frames: int = 1, shown: int = 1
) -> Tensor:
    """Entropy over the pixels of each patch: float32 [views, patches].

    Args:
        patches: normalised, one after the other, each with its channels outermost: [patches, ...].
        side: of a patch, in pixels.
        statistics: normalisation to invert.
        views: how many views the patches make.
        frames: that a patch holds.
        shown: how many of them to look at.
    """
    pixels = patches.reshape(len(patches), -1, frames, side, side)
    # Frames stand below each other; repeated sideways they form a square, and repetition leaves entropy as it is.
    square = torch.cat(pixels[:, :, :shown].unbind(2), dim=2).repeat(1, 1, 1, shown)
    return image_entropy(square, side * shown, statistics).reshape(views, -1)
