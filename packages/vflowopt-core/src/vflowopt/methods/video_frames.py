"""The tokens of a video frame by frame, side by side in one array, and its frames by segments."""

from dataclasses import dataclass

import numpy as np

from vflowopt.arrays import Array, HostInts, asarray_like, device_of, inverse_permutation, namespace, normalised, pick
from vflowopt.layout import TokenLayout

CUT = 0.9
"""Consecutive frames whose means are less similar belong to different segments."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Places of T tokens in F frames, n places in each, n being the size of the largest.

    Attributes:
        table: int64 [F * n], the token in each place; 0 where there is none.
        there: bool [F, n], whether there is one.
        seat: int64 [T], the place of each token.
        sizes: float32 [F], tokens of each frame.
        due: int64 [T], on the host: whose turn it is when frames take tokens in proportion to their sizes (Webster's
            method); the first frame's of several.
    """

    table: Array
    there: Array
    seat: Array
    sizes: Array
    due: HostInts

    @classmethod
    def of(cls, layout: TokenLayout, like: Array) -> "Frames":
        """Those of the tokens of a layout that have a patch, at least one; made once where another array lives."""

        def made() -> "Frames":
            frame = np.unique(layout.position[~layout.structural, 0], return_inverse=True)[1].reshape(-1)
            sizes, order = np.bincount(frame), np.argsort(frame, kind="stable")
            within, owner = np.concatenate([np.arange(size) for size in sizes]), frame[order]
            table = np.zeros((len(sizes), sizes.max()), dtype=np.int64)
            table[owner, within] = order
            seat = np.zeros_like(order)
            seat[order] = owner * sizes.max() + within
            there = np.arange(sizes.max()) < sizes[:, None]
            claims = (within.astype(np.float32) + np.float32(0.5)) / sizes[owner].astype(np.float32)
            return cls(
                table=asarray_like(table.reshape(-1), like),
                there=asarray_like(there, like),
                seat=asarray_like(seat, like),
                sizes=asarray_like(sizes.astype(np.float32), like),
                due=owner[np.argsort(claims, kind="stable")],
            )

        return layout.derived("video-frames", like, made)

    def most(self, count: int) -> int:
        """How many of the first ``count`` tokens that are due the frame has that has most of them."""
        return int(np.bincount(self.due[:count], minlength=1).max())

    def arranged(self, values: Array) -> Array:
        """Values [T, ...] of the tokens by places: [F, n, ...], 0 where there is none."""
        xp = namespace(values)
        there = xp.reshape(self.there, (*self.there.shape, *(1 for _ in values.shape[1:])))
        return xp.where(there, xp.reshape(pick(values, self.table), (*self.there.shape, *values.shape[1:])), 0.0)

    def means(self, arranged: Array) -> Array:
        """The mean of each frame's tokens: [F, D], of :meth:`arranged` ones."""
        return namespace(arranged).sum(arranged, axis=1) / self.sizes[:, None]


def segments(means: Array, least: int) -> Array:
    """Cut a video where consecutive frames differ, and if that is not often enough, where they differ most.

    Args:
        means: float32 [F, D], of the tokens of each frame.
        least: number of segments, if there are as many frames.

    Returns:
        The number of the segment of each frame, int64 [F], ascending from 0.
    """
    xp, directions = namespace(means), normalised(means)
    first = xp.zeros(1, dtype=xp.int64, device=device_of(means))
    if means.shape[0] == 1:
        return first
    alike = xp.sum(directions[1:, :] * directions[:-1, :], axis=1)
    rank = inverse_permutation(xp.argsort(alike, stable=True))
    cut = (alike < CUT) | (rank < least - 1)
    return xp.concat([first, xp.cumulative_sum(xp.astype(cut, xp.int64))])
