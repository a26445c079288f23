"""Crops of images: those whose patches a pixel shuffle merges, and how prompts tell which crops make an image."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from vflowopt import TokenLayout
from vflowopt.arrays import HostInts
from vflowopt_hf.family import Unit
from vflowopt_hf.pixels import image_entropy

Shuffle = Callable[[Tensor], Tensor]
"""Upstream's pixel shuffle of one crop: patch map [1, patches] -> the patches of each token [N, members]."""


def crop_units(pixels: Tensor, patch: int, shuffle: Shuffle) -> Iterator[Unit]:
    """One unit per crop: the parts of images.

    Args:
        pixels: float [crops, 3, side, side], in feature order.
        patch: side of a patch in pixels.
        shuffle: upstream's.
    """
    rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    side = round(len(shuffle(torch.zeros(1, rows * columns))) ** 0.5)
    layout = TokenLayout(np.indices((1, side, side)).reshape(3, -1).T)
    for view in range(len(pixels)):
        yield Unit(
            views=slice(view, view + 1),
            layout=layout,
            to_tokens=partial(_mean, shuffle),
            entropy=partial(image_entropy, pixels[view : view + 1], patch),
        )


def _mean(shuffle: Shuffle, patch_map: Tensor) -> Tensor:
    """[1, patches] -> [N], the mean over the patches of each token."""
    return shuffle(patch_map).mean(dim=-1)


def placeholder_runs(ids: HostInts, placeholder: int) -> tuple[HostInts, HostInts]:
    """Where placeholders follow each other without a gap: first position and length of each run, int64 [runs].

    Args:
        ids: int64 [queries].
        placeholder: the token id.
    """
    found = np.concatenate([[False], ids == placeholder, [False]])
    edges = np.flatnonzero(found[1:] != found[:-1])
    return edges[::2], edges[1::2] - edges[::2]


def lengths_by_name(ids: HostInts, placeholder: int) -> list[int]:
    """Placeholders of each image, where the prompt names every crop and an image ends with its global one.

    A name is known by its last token. The global crop's is the one that stands before the prompt's last crop.

    Args:
        ids: int64 [queries].
        placeholder: the token id.
    """
    starts, lengths = placeholder_runs(ids, placeholder)
    names = ids[starts - 1]
    ends = lengths.cumsum()[names == names[-1:]]
    return np.diff(ends, prepend=0).tolist()  # type: ignore[no-any-return]


def lengths_by_gap(ids: HostInts, placeholder: int) -> list[int]:
    """Placeholders of each image, where one token stands between two crops of an image, and more between images.

    Args:
        ids: int64 [queries].
        placeholder: the token id.
    """
    starts, lengths = placeholder_runs(ids, placeholder)
    gaps = starts[1:] - (starts + lengths)[:-1]
    return [int(own.sum()) for own in np.split(lengths, np.flatnonzero(gaps > 1) + 1) if len(own)]
