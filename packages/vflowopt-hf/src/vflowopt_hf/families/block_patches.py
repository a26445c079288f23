"""Flat patches of images and videos, so ordered that those of one visual token follow each other.

A patch holds as many frames as a temporal slice; an image is one frame that the processor has repeated. The tower
attends within one image or one temporal slice of a video: these are the views.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from vflowopt_hf.families.flat_patches import flat_entropy, read_patches
from vflowopt_hf.families.merged_patches import merge_blocks, merged_layout
from vflowopt_hf.family import Unit


def block_units(vision: Any, modality: str, arguments: Mapping[str, Any]) -> list[Unit]:
    """One unit per image or video.

    Args:
        vision: configuration of the vision tower.
        modality: "image" or "video".
        arguments: of upstream's encoder.

    Raises:
        InputError: the grid sizes that the processor returns beside the pixels are missing.
    """
    return list(_units(vision, modality, arguments))


def _units(vision: Any, modality: str, arguments: Mapping[str, Any]) -> Iterator[Unit]:
    merge, view = int(vision.spatial_merge_size), 0
    for patches, (slices, rows, columns) in read_patches(modality, arguments):
        yield Unit(
            views=slice(view, view + slices),
            layout=merged_layout(slices, rows, columns, merge),
            to_tokens=merge_blocks(merge),
            entropy=partial(
                flat_entropy,
                patches,
                int(vision.patch_size),
                views=slices,
                frames=int(vision.temporal_patch_size),
                shown=int(vision.temporal_patch_size) if modality == "video" else 1,  # one copy of an image says all
            ),
            packed_patches=rows * columns,
        )
        view += slices
