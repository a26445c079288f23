"""Where pixels go: views of 112 x 112 pixels, patches of 8 x 8, and upstream's any-resolution tiling of images.

Sizes are ``(height, width)`` in pixels, as everywhere in transformers' image code. Everything here repeats upstream's
arithmetic; tests hold it against the image processor and the model themselves.
"""

from __future__ import annotations

from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

VIEW: Final = 112
"""Side of what one pass of the vision tower sees, in pixels."""
PATCH: Final = 8
"""Side of a patch, in pixels."""
SIDE: Final = VIEW // PATCH
"""Patches along one side of a view."""
PINPOINTS: Final = ((112, 112), (112, 224), (224, 112), (224, 224), (112, 336), (336, 112), (224, 336), (336, 224))
"""The grids that an image may be tiled into."""
ASPECT: Final = "anyres_max_4"
"""LLaVA-OneVision's name for: grids of more than 4 x 1.1^2 views' worth of tokens are interpolated down to about 4."""

Canvas = tuple[int, int]
_T = TypeVar("_T", bound=np.generic)


def best_grid(canvas: Canvas) -> Canvas:
    """The pinpoint upstream chooses for an image of this size: most pixels kept, then least padding."""
    height, width = canvas

    def rank(grid: Canvas) -> tuple[int, int]:
        scale = min(grid[1] / width, grid[0] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, -(grid[0] * grid[1] - effective)

    return max(PINPOINTS, key=rank)


def margins(canvas: Canvas) -> tuple[int, int]:
    """Pixels of padding above and left of a canvas in its grid.

    Raises:
        ValueError: the canvas does not fill its grid at scale 1, or padding would leave the patch lattice.
    """
    grid = best_grid(canvas)
    top, left = (grid[0] - canvas[0]) // 2, (grid[1] - canvas[1]) // 2
    fills = canvas[0] == grid[0] or canvas[1] == grid[1]
    if not fills or top < 0 or left < 0 or any(x % (2 * PATCH) for x in canvas):
        raise ValueError(
            f"a canvas must have sides that are multiples of {2 * PATCH} and fill one side of its grid; "
            f"{canvas} in the grid {grid} does not"
        )
    return top, left


def unpadded_grid(size: Canvas) -> Canvas:
    """Rows and columns of patches of an image of any size in its grid of tiles, padding cut off."""
    height, width = size
    grid = best_grid(size)
    rows, columns = grid[0] // PATCH, grid[1] // PATCH
    # The same floating-point expressions as upstream, because their rounding decides extreme shapes.
    if width / height > columns / rows:
        rows -= (rows - int(round(height * (columns / width), 7))) // 2 * 2
    else:
        columns -= (columns - int(round(width * (rows / height), 7))) // 2 * 2
    return rows, columns


def squeeze(plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A map ``[height, width]`` as the base view shows it: ``[112, 112]``, values unmixed."""
    return np.asarray(Image.fromarray(plane).resize((VIEW, VIEW), Image.Resampling.NEAREST))


def tile(plane: NDArray[_T], canvas: Canvas) -> NDArray[_T]:
    """Pads a canvas with zeros to its grid and cuts the grid into views, row by row.

    Args:
        plane: ``[height, width, ...]``.
        canvas: the size of ``plane``.

    Returns:
        ``[views, 112, 112, ...]``.
    """
    grid = best_grid(canvas)
    top, left = margins(canvas)
    padded = np.zeros((*grid, *plane.shape[2:]), plane.dtype)
    padded[top : top + canvas[0], left : left + canvas[1]] = plane
    rows, columns = grid[0] // VIEW, grid[1] // VIEW
    cut = padded.reshape(rows, VIEW, columns, VIEW, *plane.shape[2:]).swapaxes(1, 2)
    return cut.reshape(rows * columns, VIEW, VIEW, *plane.shape[2:])


def views(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The base view (whole image, squeezed to 112 x 112) and then the tiles, as upstream's image processor cuts them.

    Args:
        image: ``[height, width, 3]``.

    Returns:
        ``[1 + tiles, 112, 112, 3]``.
    """
    canvas = (image.shape[0], image.shape[1])
    base = np.asarray(Image.fromarray(image).resize((VIEW, VIEW), Image.Resampling.BICUBIC))
    return np.concatenate([base[None], tile(image, canvas)])
