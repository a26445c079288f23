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
    """Cell number of each token, int64 [N]: dense from 0, -1 where structural. Grids never share a cell."""
    tokens = ~layout.structural
    place = layout.position[tokens]
    cell = np.floor(place[:, 1:] / side).astype(np.int64)
    numbers = np.full(layout.tokens, -1, dtype=np.int64)
    if len(cell):
        rows, columns = cell.max(axis=0) + 1
        key = (place[:, 0] * rows + cell[:, 0]) * columns + cell[:, 1]  # one number sorts faster than three
        numbers[tokens] = np.unique(key, return_inverse=True)[1]
    return numbers


def member_table(cells: HostInts) -> tuple[HostInts, HostBools]:
    """Members of each cell as a padded table: token indices int64 [cells, most members] and their validity."""
    members = np.flatnonzero(cells >= 0)
    members = members[np.argsort(cells[members], kind="stable")]
    sizes = np.bincount(cells[members], minlength=0)
    valid: HostBools = np.arange(max(sizes, default=0))[None, :] < sizes[:, None]
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
        """See :meth:`Recycler.merge`. Shapes depend on the layout only, so nothing leaves the device.

        Raises:
            BudgetError: ``count`` is below the number of structural tokens.
        """
        layout.require(count)
        xp = namespace(importance)
        cells = grid_cells(layout, self.cell)
        host_table, host_valid = member_table(cells)
        free = count - int(layout.structural.sum())  # slots for tokens that have a patch
        identity = asarray_like(np.arange(layout.tokens), importance)
        structural = asarray_like(layout.structural, importance)
        if not host_table.size:
            return Merge(structural, identity, xp.ones_like(importance))
        table = asarray_like(host_table.reshape(-1), importance)
        valid = asarray_like(host_valid, importance)

        def per_cell(values: Array, filler: float) -> Array:
            return xp.where(valid, xp.reshape(xp.take(values, table), host_valid.shape), filler)

        lowest = xp.where(structural, -xp.inf, importance)  # structural tokens rank last
        rank = inverse_permutation(descending_order(lowest))
        cell_rank = per_cell(rank, -1)
        kept_first = _kept_before_merging(xp.max(cell_rank, axis=-1), free, int(host_valid.sum()))
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
        used = _retained_cells(xp.sum(mass, axis=-1), free, int(host_valid.shape[0]))

        # Back from cells to tokens; structural tokens borrow cell 0 and are overruled.
        own_cell = asarray_like(np.maximum(cells, 0), importance)
        in_table = np.zeros(layout.tokens, dtype=np.int64)
        in_table[host_table[host_valid]] = np.flatnonzero(host_valid.reshape(-1))
        token_share = xp.take(xp.reshape(share, (-1,)), asarray_like(in_table, importance))
        is_kept = structural | (rank < kept_first)
        is_used = is_kept | xp.take(used, own_cell)
        anchor = xp.where(is_kept, identity, xp.take(cell_anchor, own_cell))
        weight = xp.where(is_kept, xp.ones_like(token_share), token_share)
        return Merge(
            retained=is_used & (anchor == identity),
            anchor=xp.where(is_used, anchor, -1),
            weight=xp.where(is_used, weight, xp.zeros_like(weight)),
        )


def _kept_before_merging(last_rank: Array, free: int, tokens: int) -> Array:
    """The largest k with k + c(k) = ``free``, as a device scalar; 0 where even c(0) is larger.

    ``last_rank`` [cells] is the rank of each cell's last-ranked member: the cell loses a member for every k up to it.
    """
    xp = namespace(last_rank)
    k = xp.arange(tokens + 1, dtype=last_rank.dtype, device=device_of(last_rank))
    losing = last_rank.shape[0] - xp.searchsorted(xp.sort(last_rank), k, side="left")
    fitting = xp.sum(xp.astype(k + losing <= free, xp.int64))
    return xp.clip(fitting - 1, 0, None)


def _retained_cells(mass: Array, free: int, cells: int) -> Array:
    """Mask [cells]: all of them, or where there are more than ``free`` the ``free`` with the largest mass."""
    if free >= cells:
        return namespace(mass).ones_like(mass, dtype=namespace(mass).bool)
    return inverse_permutation(descending_order(mass)) < free
