"""Grid recycling (paper Eq. 6-7) under an exact budget."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from vflowopt.arrays import (
    Array,
    HostBools,
    HostInts,
    asarray_like,
    descending_order,
    device_of,
    inverse_permutation,
    namespace,
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


class GridRecycler(Recycler):
    """Merge what is pruned in each grid cell into one recycled token at the place of its most important member.

    With the tokens ranked by importance, keeping the first k leaves k + c(k) tokens, c(k) being the number of cells
    that lose a member. k + c(k) grows by 0 or 1 per step, so the count is met exactly by one search over k. Where
    even k = 0 leaves too many, the cells with the largest summed importance are retained.

    Attributes:
        cell: a of Eq. 6, side of a cell in tokens, real, at least 1.
    """

    name: Literal["grid"] = "grid"
    cell: Annotated[float, Field(ge=1)]

    def merge(self, importance: Array, layout: TokenLayout, count: int) -> Merge:
        """See :meth:`Recycler.merge`. Shapes depend on the layout only, so nothing leaves the device."""
        xp = namespace(importance)
        cells = grid_cells(layout, self.cell)
        host_table, host_valid = member_table(cells)
        identity = asarray_like(np.arange(layout.tokens), importance)
        table = asarray_like(host_table.reshape(-1), importance)
        valid = asarray_like(host_valid, importance)

        def per_cell(values: Array, filler: float) -> Array:
            return xp.where(valid, xp.reshape(xp.take(values, table), host_valid.shape), filler)

        rank = inverse_permutation(descending_order(importance))
        cell_rank = per_cell(rank, -1)
        kept_first = _kept_before_merging(xp.max(cell_rank, axis=-1), count, layout.tokens)
        merged = valid & (cell_rank >= kept_first)
        mass = xp.where(merged, xp.clip(per_cell(importance, 0.0), 0.0, None), 0.0)
        total = xp.sum(mass, axis=-1, keepdims=True)
        alone = xp.astype(merged, importance.dtype)
        plain = alone / xp.clip(xp.sum(alone, axis=-1, keepdims=True), 1.0, None)
        share = xp.where(total > 0, mass / xp.where(total > 0, total, 1.0), plain)
        best = xp.argmin(xp.where(merged, cell_rank, layout.tokens), axis=-1, keepdims=True)
        width = host_valid.shape[1]
        first_slot = asarray_like(np.arange(host_valid.shape[0])[:, None] * width, importance)
        cell_anchor = xp.take(table, xp.reshape(best + first_slot, (-1,)))
        used = _retained_cells(xp.sum(mass, axis=-1), count, int(host_valid.shape[0]))

        # Back from cells to tokens.
        own_cell = asarray_like(cells, importance)
        in_table = np.zeros(layout.tokens, dtype=np.int64)
        in_table[host_table[host_valid]] = np.flatnonzero(host_valid.reshape(-1))
        token_share = xp.take(xp.reshape(share, (-1,)), asarray_like(in_table, importance))
        is_kept = rank < kept_first
        is_used = is_kept | xp.take(used, own_cell)
        anchor = xp.where(is_kept, identity, xp.take(cell_anchor, own_cell))
        weight = xp.where(is_kept, xp.ones_like(token_share), token_share)
        return Merge(
            retained=is_used & (anchor == identity),
            anchor=xp.where(is_used, anchor, -1),
            weight=xp.where(is_used, weight, xp.zeros_like(weight)),
        )


def _kept_before_merging(last_rank: Array, count: int, tokens: int) -> Array:
    """The largest k with k + c(k) = ``count``, as a device scalar; 0 where even c(0) is larger.

    ``last_rank`` [cells] is the rank of each cell's last-ranked member: the cell loses a member for every k up to it.
    """
    xp = namespace(last_rank)
    k = xp.arange(tokens + 1, dtype=last_rank.dtype, device=device_of(last_rank))
    losing = last_rank.shape[0] - xp.searchsorted(xp.sort(last_rank), k, side="left")
    fitting = xp.sum(xp.astype(k + losing <= count, xp.int64))
    return xp.clip(fitting - 1, 0, None)


def _retained_cells(mass: Array, count: int, cells: int) -> Array:
    """Mask [cells]: all of them, or where there are more than ``count`` the ``count`` with the largest mass."""
    if count >= cells:
        return namespace(mass).ones_like(mass, dtype=namespace(mass).bool)
    return inverse_permutation(descending_order(mass)) < count
