"""Flat patches of images of any size, row by row; every image is a view, and k x k patches make a visual token.

Several frames of one entry are one view, too: a visual token is made of the same k x k patches of all of them.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from vflowopt_hf.families.flat_patches import flat_entropy, read_patches
from vflowopt_hf.families.merged_patches import merge_rows, merged_layout
from vflowopt_hf.family import Unit


def row_units(side: int, merge: int, modality: str, arguments: Mapping[str, Any]) -> list[Unit]:
    """One unit per entry.

    Args:
        side: of a patch, in pixels.
        merge: patches along a side of a token.
        modality: "image" or "video".
        arguments: of upstream's encoder.

    Raises:
        InputError: the grid sizes that the processor returns beside the pixels are missing.
    """
    return list(_units(side, merge, modality, arguments))


def _units(side: int, merge: int, modality: str, arguments: Mapping[str, Any]) -> Iterator[Unit]:
    for view, (patches, (frames, rows, columns)) in enumerate(read_patches(modality, arguments)):
        yield Unit(
            views=slice(view, view + 1),
            layout=merged_layout(1, rows, columns, merge),
            to_tokens=merge_rows(merge, rows, columns),
            entropy=partial(flat_entropy, patches, side),
            packed_patches=frames * rows * columns,
        )
