"""Images that are one view each, whose patches, k x k of them, make the visual tokens row by row."""

from collections.abc import Iterable
from functools import partial

from torch import Tensor

from vflowopt_hf.families.merged_patches import merge_rows, merged_layout
from vflowopt_hf.family import Unit
from vflowopt_hf.pixels import image_entropy


def picture_units(pictures: Iterable[Tensor], patch: int, merge: int = 1) -> list[Unit]:
    """One unit per image.

    Args:
        pictures: float [3, height, width] of each image, whole patches, as the vision tower takes them.
        patch: side of a patch in pixels.
        merge: patches along a side of a token.
    """
    return [_unit(view, picture, patch, merge) for view, picture in enumerate(pictures)]


def _unit(view: int, picture: Tensor, patch: int, merge: int) -> Unit:
    rows, columns = (int(side) // patch for side in picture.shape[-2:])
    return Unit(
        views=slice(view, view + 1),
        layout=merged_layout(1, rows, columns, merge),
        to_tokens=merge_rows(merge, rows, columns),
        entropy=partial(image_entropy, picture[None], patch),
        packed_patches=rows * columns,
    )
