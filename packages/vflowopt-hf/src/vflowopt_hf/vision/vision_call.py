"""One call of an attention function, as it came, and the views in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor

from vflowopt_hf.family import Unit
from vflowopt_hf.vision.equal_views import EqualViews


@dataclass(frozen=True, eq=False)
class VisionCall:
    """What an attention function was called with; nothing is computed yet, and nothing waited for.

    Attributes:
        query: [views, heads, positions, head_dim]; views may be packed along the positions.
        key: [views, key heads, positions, head_dim].
        scaling: factor of the scores.
        bounds: see :func:`packed_lengths`.
        mask: the same.
        value: as ``key``; ``None`` if nobody asks for it.
    """

    query: Tensor
    key: Tensor
    scaling: float
    bounds: Tensor | None = None
    mask: object = None
    value: Tensor | None = None

    def views(self, class_tokens: int = 0, expected: Sequence[int] = ()) -> list[EqualViews]:
        """The views of the call, neighbours of one length together.

        Args:
            class_tokens: of each view.
            expected: positions of its views, and of those of later calls, where the host knows them. If they are empty,
                or do not fit the shapes, bounds or mask are read, which waits for the device.
        """
        states = [self.query.detach(), self.key.detach()]
        states += [] if self.value is None else [self.value.detach()]
        lengths = self._fitting(expected) or packed_lengths(self.bounds, self.mask)
        if lengths is None:
            return [_equal_views(states, self.scaling, class_tokens)]
        found, start = [], 0
        for length, equal in groupby(lengths):
            views = len(list(equal))
            packed = slice(start, start + views * length)
            own = [state[0, :, packed].unflatten(1, (views, length)).transpose(0, 1) for state in states]
            found.append(_equal_views(own, self.scaling, class_tokens))
            start = packed.stop
        return found

    def _fitting(self, expected: Sequence[int]) -> list[int] | None:
        """As many of the lengths as fill the call; without bounds or mask it is one view, whatever would fit."""
        positions, ends = self.query.shape[2], list(accumulate(expected))
        if len(self.query) > 1 or positions not in ends or (self.bounds is None and _square(self.mask) is None):
            return None
        lengths = list(expected[: ends.index(positions) + 1])
        return lengths if self.bounds is None or len(self.bounds) == len(lengths) + 1 else None


def _equal_views(states: Sequence[Tensor], scaling: float, class_tokens: int) -> EqualViews:
    query, key, *value = states
    return EqualViews(query, key, scaling, class_tokens, *value)


def packed_positions(units: Sequence[Unit], class_tokens: int) -> list[int]:
    """Positions of each view of some units, where their tower packs views into one sequence; empty where it does not.

    Args:
        units: of one call of an encoder, in order.
        class_tokens: of each view.
    """
    told = [unit.packed_patches for unit in units for _ in range(unit.views.stop - unit.views.start)]
    return [class_tokens + patches for patches in told if patches is not None] if None not in told else []


def packed_lengths(bounds: Tensor | None, mask: object) -> list[int] | None:
    """Positions of each view, if a tower packs several into one sequence, and so into one call.

    Args:
        bounds: int [views + 1], where packed views begin and end (``cu_seq_lens_q``), or ``None``.
        mask: the call's attention mask; tells views apart if it is [1, 1, positions, positions], boolean (True is seen)
            or additive, and lets every position see exactly those of its own view.

    Returns:
        Lengths in order; ``None`` if neither argument tells of packed views.
    """
    if bounds is not None:
        lengths: list[int] = bounds.diff().tolist()
        return lengths
    square = _square(mask)
    if square is None:
        return None
    seen = square if square.dtype == torch.bool else square == 0
    first = seen.byte().argmax(dim=1)  # the first position that each one sees: that of its view
    if (first.diff() < 0).any() or not torch.equal(seen, first[:, None] == first):
        return None
    counted: list[int] = first.unique_consecutive(return_counts=True)[1].tolist()
    return counted


def _square(mask: object) -> Tensor | None:
    """[positions, positions] of a mask that says who sees whom in one sequence; ``None`` for any other."""
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[:2] != (1, 1) or mask.shape[2] != mask.shape[3]:
        return None
    return mask[0, 0]
