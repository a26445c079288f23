"""Grid recycling (paper Eq. 6-7) under an exact budget."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from vflowopt.arrays import (
    Array,
    HostBools,
    HostInts,
    asarray_like,
    descending_order,
    inverse_permutation,
    namespace,
    pick,
)
from vflowopt.components.contract import Merge, Recycler
from vflowopt.layout import TokenLayout


def grid_cells(layout: TokenLayout, side: float) -> HostInts:
    """Cell number of each token, all of which have a place: int64 [N], dense from 0. Grids never share a cell."""
    place = layout.position
    cell = np.floor(place[:, 1:] / side).astype(np.int64)
    rows, columns = cell.max(axis=0) + 1
    key = (place[:, 0] * rows + cell[:, 0]) * columns + cell[:, 1]  # one number sorts faster than three
    return np.asarray(np.unique(key, return_inverse=True)[1], dtype=np.int64)


def member_table(cells: HostInts) -> tuple[HostInts, HostBools]:
    """Members of each cell as a padded table: token indices int64 [cells, most members] and their validity."""
    members = np.argsort(cells, kind="stable")
    sizes = np.bincount(cells)
    valid: HostBools = np.arange(sizes.max())[None, :] < sizes[:, None]
    table = np.zeros(valid.shape, dtype=np.int64)
    table[valid] = members
    return table, valid


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a unit's N tokens, where its importance lives; W is the most members that a cell has.

    Attributes:
        count: how many there are.
        table: int64 [cells * W], the members of each; where a cell has fewer, its first one again.
        valid: bool [cells, W], False where it is there again.
        own: int64 [N], the cell of each token.
        seats: int64 [N], where each token is in the table.
        token: int64 [N], 0, 1, ...
        number: int64 [cells], likewise.
    """

    count: int
    table: Array
    valid: Array
    own: Array
    seats: Array
    token: Array
    number: Array

    @classmethod
    def of(cls, layout: TokenLayout, side: float, like: Array) -> "Cells":
        """The cells of a layout, made once where another array lives."""
        return layout.derived(("cells", side), like, lambda: cls._made(layout, side, like))

    @classmethod
    def _made(cls, layout: TokenLayout, side: float, like: Array) -> "Cells":
        cells = grid_cells(layout, side)
        table, valid = member_table(cells)
        seats = np.zeros(layout.tokens, dtype=np.int64)
        seats[table[valid]] = np.flatnonzero(valid.reshape(-1))
        table = np.where(valid, table, table[:, :1]).reshape(-1)
        token, number = np.arange(layout.tokens), np.arange(len(valid))
        hosts = (table, valid, cells, seats, token, number)
        return cls(len(valid), *(asarray_like(host, like) for host in hosts))

    def members(self, values: Array) -> Array:
        """Of values [N] those of each cell's members: [cells, W]."""
        xp = namespace(values)
        return xp.reshape(pick(values, self.table), self.valid.shape)


class GridRecycler(Recycler):
    """Merge what is pruned in each grid cell into one recycled token at the place of its most important member.

    With the tokens ranked by importance, keeping the first k leaves k + c(k) tokens, c(k) being the number of cells
    that lose a member. k + c(k) grows by 0 or 1 per step, so the count is met exactly by one search over k. Where
    even k = 0 leaves too many, the cells with the largest summed importance are retained.

    Attributes:
        cell: a of Eq. 6, side of a cell in tokens, real, at least 1.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["grid"] = "grid"
    cell: Annotated[float, Field(ge=1)]

    def merge(self, importance: Array, layout: TokenLayout, count: int) -> Merge:
        """See :meth:`Recycler.merge`. Shapes depend on the layout only, so nothing leaves the device."""
        xp, cells = namespace(importance), Cells.of(layout, self.cell, importance)
        order = descending_order(importance)
        rank = inverse_permutation(order)
        ranks = cells.members(rank)
        kept_first = _kept_before_merging(xp.max(ranks, axis=-1), cells.number, count)
        is_kept = rank < kept_first
        merged = cells.valid & (ranks >= kept_first)
        alone = xp.astype(merged, importance.dtype)
        mass = cells.members(xp.clip(importance, 0.0, None)) * alone
        total = xp.sum(mass, axis=-1, keepdims=True)
        share = xp.where(total > 0, mass, alone)
        # Of a cell that loses no member, nothing is taken.
        share = share / xp.clip(xp.sum(share, axis=-1, keepdims=True), xp.finfo(importance.dtype).smallest_normal, None)
        best = xp.min(xp.where(merged, ranks, layout.tokens - 1), axis=-1)
        anchor = xp.where(is_kept, cells.token, pick(pick(order, best), cells.own))
        weight = xp.where(is_kept, 1.0, pick(xp.reshape(share, (-1,)), cells.seats))
        if count >= cells.count:
            return Merge(anchor == cells.token, anchor, weight)
        # Even one token per cell is too much, so none is kept: the cells with the largest mass are retained.
        used = inverse_permutation(descending_order(total[:, 0])) < count
        is_used = pick(used, cells.own)
        return Merge(is_used & (anchor == cells.token), xp.where(is_used, anchor, -1), weight * is_used)


def _kept_before_merging(last_rank: Array, number: Array, count: int) -> Array:
    """The largest k with k + c(k) = ``count``, as a device scalar; 0 where even c(0) is larger.

    A cell loses a member for every k up to the rank of its member that is ranked last. With these in ascending order
    r_0 < r_1 < ..., c(k) = cells - j for every k with r_(j-1) < k <= r_j. So k = count - cells + j, for the j at which
    r_(j-1) - (j-1) <= count - cells < r_j - j; r_j - j never falls, so it is the number of those up to count - cells.

    Args:
        last_rank: int64 [cells].
        number: int64 [cells], 0, 1, ...
        count: how many tokens are retained.
    """
    xp, spare = namespace(last_rank), count - last_rank.shape[0]
    before = xp.astype(xp.sort(last_rank) - number <= spare, xp.int64)
    return xp.clip(xp.sum(before) + spare, 0, None)
