"""Units made of parts: the crops of an image, where only the prompt tells which crops make an image."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from vflowopt import TokenLayout
from vflowopt_hf.family import Unit
from vflowopt_hf.pixels import PixelStatistics


def take_units(parts: deque[Unit], available: int, lengths: Sequence[int] | None) -> Iterator[Unit]:
    """Take the units of one prompt off the encoded parts, as long as they fill the prompt's placeholders exactly.

    Args:
        parts: what was encoded, in feature order; what is taken leaves it.
        available: placeholders in the prompt.
        lengths: placeholders of each unit; ``None`` if every part is a unit.
    """
    left = None if lengths is None else deque(lengths)
    while available and parts and (left is None or left):
        length = parts[0].layout.tokens if left is None else left.popleft()
        taken: list[Unit] = []
        while parts and length > 0 and parts[0].layout.tokens <= min(length, available):
            taken.append(parts.popleft())
            length, available = length - taken[-1].layout.tokens, available - taken[-1].layout.tokens
        if length or not taken:
            return
        yield join(taken)


def join(parts: Sequence[Unit]) -> Unit:
    """One unit of several that follow each other and whose views have the same patches in the same order.

    Its visual tokens are theirs in turn; token grids are numbered through.
    """
    if len(parts) == 1:
        return parts[0]
    views = [part.views.stop - part.views.start for part in parts]
    to_tokens = partial(_to_tokens, tuple(part.to_tokens for part in parts), tuple(views))
    positions, grids = [], 0
    for part in parts:
        position = part.layout.position
        positions.append(np.where(position < 0, position, position + np.array([grids, 0, 0])))
        grids += int(position[:, 0].max(initial=-1)) + 1

    def entropy(statistics: PixelStatistics) -> Tensor:
        return torch.cat([part.entropy(statistics) for part in parts])

    whole = slice(parts[0].views.start, parts[-1].views.stop)
    return Unit(
        whole, TokenLayout(np.concatenate(positions)), to_tokens, entropy, parts[0].patch_order, parts[0].real_patches
    )


def _to_tokens(transforms: Sequence[Callable[[Tensor], Tensor]], views: Sequence[int], patch_map: Tensor) -> Tensor:
    """What each part makes of its views, [all views, patches] -> [N]."""
    maps = patch_map.split(list(views))
    return torch.cat([transform(own) for transform, own in zip(transforms, maps, strict=True)])
