"""Geometry of anyres images: a base crop, then tiles stitched to one grid, and a separator at the end of each row."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from vflowopt import TokenLayout
from vflowopt.arrays import HostInts
from vflowopt_hf.family import Unit
from vflowopt_hf.pixels import image_entropy

SEPARATOR: HostInts = np.full((1, 3), -1, dtype=np.int64)
"""Position of one structural token."""

Pack = Callable[[tuple[int, int], Tensor], Tensor]
"""Upstream's packing of one image's features: (size, patch map [views, patches]) -> [N]; row separators get 0."""


def image_units(config: Any, pixels: Tensor, sizes: Tensor, tiled: Sequence[bool], pack: Pack) -> Iterator[Unit]:
    """One unit per image.

    Args:
        config: the model's configuration.
        pixels: float [images, views, 3, side, side], filled up with padding views; or [views, 3, side, side] without.
        sizes: int [images, 2], height and width before preprocessing.
        tiled: of each image, whether upstream uses its tiles or only its base crop.
        pack: upstream's packing.
    """
    vision, start = config.vision_config, 0

    @functools.cache  # images of one size have one layout
    def layout(pack_own: Callable[[Tensor], Tensor], views: int) -> TokenLayout:
        return image_layout(pack_own, views, patches_per_side(config))

    @functools.cache
    def packing(size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        return partial(pack, size)

    for index, (height, width) in enumerate(sizes.tolist()):
        size = height, width
        views = views_of(size, config) if tiled[index] else 1
        own = pixels[index, :views] if pixels.ndim == 5 else pixels[start : start + views]
        yield Unit(
            views=slice(start, start + views),
            layout=layout(packing(size), views),
            to_tokens=packing(size),
            entropy=partial(image_entropy, own, vision.patch_size),
        )
        start += views


def views_of(size: tuple[int, int], config: Any) -> int:
    """Crops that an image of some height and width is cut into, the base crop among them."""
    return int(image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size))


class Unplaced(list[Tensor]):
    """Features that upstream's ``pack_image_features`` packs.

    It takes the features by iterating. The first entry it asks for the device to copy their lengths to, and waits for
    the copy; nobody needs these lengths, so here they stay on the host.
    """

    def __getitem__(self, _index: Any) -> Any:
        return SimpleNamespace(device=None)


def one_map(patch_map: Tensor) -> Unplaced:
    """A single map in place of features."""
    return Unplaced([patch_map[..., None]])


def packing_without_waits(backbone: Any) -> Mapping[str, Callable[..., Any]]:
    """See :meth:`vflowopt_hf.family.Family.without_waits`."""
    pack = backbone.pack_image_features

    @functools.wraps(pack)
    def call(image_features: Iterable[Tensor], *args: Any, **kwargs: Any) -> Any:
        return pack(Unplaced(image_features), *args, **kwargs)

    return {"pack_image_features": call}


def image_layout(pack: Callable[[Tensor], Tensor], views: int, side: int) -> TokenLayout:
    """Base crop as grid 0; the stitched, unpadded and perhaps interpolated tiles as grid 1, one separator per row.

    The size of grid 1 is read off upstream's packing of a constant map: it has as many rows as separators. An image
    without tiles has one row with nothing but a separator; of one narrow beyond all proportion unpadding leaves no row.
    """
    packed = pack(torch.ones(views, side * side))
    rows = int((packed < 0.5).sum())
    columns = (len(packed) - side * side) // rows - 1 if rows else 0
    grid = grid_positions(1, rows, columns).reshape(rows, columns, 3)
    lines = np.concatenate([grid, np.broadcast_to(SEPARATOR, (rows, 1, 3))], axis=1)
    return TokenLayout(np.concatenate([grid_positions(0, side, side), lines.reshape(-1, 3)]))


def patches_per_side(config: Any) -> int:
    """Patches along one side of a view."""
    return int(config.vision_config.image_size // config.vision_config.patch_size)


def grid_positions(view: int, rows: int, columns: int) -> HostInts:
    """Positions of a grid in row-major order, int64 [rows * columns, 3]."""
    row, column = np.indices((rows, columns), dtype=np.int64).reshape(2, -1)
    return np.stack([np.full_like(row, view), row, column], axis=1)
