"""Hidden states of tokens that a stage merges, for all units of a batch together."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vflowopt_hf.plans.rows import BatchRows, PlacedPlan, StageRows, joined, take_rows


def merge_rows(
    hidden: Tensor, table: BatchRows, plans: Sequence[PlacedPlan], number: int = 0, before: StageRows | None = None
) -> Tensor:
    """Write each token that a stage recycles over its anchor's row (paper Eq. 7).

    Args:
        hidden: [batch, rows, features], before the stage's rows are gathered.
        table: the batch.
        plans: its units; those for which the stage merges nothing are left alone.
        number: of the stage.
        before: the stage whose rows ``hidden`` has; ``None`` for all rows of the unpruned forward.

    Returns:
        A tensor like ``hidden``. Means are taken in float32. Rows of visual tokens that are not retained hold no
        meaningful value.
    """
    merging = {unit: merge for unit, placed in enumerate(plans) if (merge := placed.plan.merge_at(number)) is not None}
    if not merging:
        return hidden
    device, units, states = hidden.device, list(merging), hidden.flatten(0, 1)
    rows = table.flat(units)
    rows = (rows if before is None else before.flat_place.index_select(0, rows)).to(device)
    weight = joined([merge.weight for merge in merging.values()], device)[:, None]
    members = (states.index_select(0, rows).float() * weight).masked_fill(weight == 0, 0)
    # A token without anchor is added to any, with weight 0.
    anchor = table.shifted(units, [merge.anchor for merge in merging.values()], device).clamp(min=0)
    merged = torch.zeros_like(members).index_add_(0, anchor, members)
    retained = table.shifted(units, [plans[unit].plan.kept[number] for unit in units], device)
    slots = merged.index_select(0, retained).to(hidden.dtype)
    return states.index_copy(0, rows.index_select(0, retained), slots).view_as(hidden)


def has_row_per_token(value: Any, table: BatchRows) -> bool:
    """Whether something is a tensor [batch, queries, features] of a forward that is not pruned yet."""
    return isinstance(value, Tensor) and value.ndim == 3 and value.shape[:2] == table.present.shape


def rows_of_stage(full: Tensor, table: BatchRows, plans: Sequence[PlacedPlan], number: int, stage: StageRows) -> Tensor:
    """A stage's rows of what has a row per token of the unpruned forward.

    A recycled token stands for its members at every depth: its row is the mean of theirs, with the weights that merged
    their embeddings or hidden states (paper Eq. 7).

    Args:
        full: [batch, queries, features].
        table: the batch.
        plans: its units.
        number: of the stage.
        stage: its rows.

    Returns:
        [batch, rows, features].
    """
    for earlier in range(number + 1):
        full = merge_rows(full, table, plans, earlier)
    return take_rows(full, stage.samples, stage.logical)
