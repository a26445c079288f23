"""Which rows of one forward each stage processes, for a whole batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vflowopt.arrays import HostBools, HostInts
from vflowopt.plan import PruningPlan


@dataclass(frozen=True, eq=False)
class PlacedPlan:
    """A unit's plan with its place in the batch.

    Attributes:
        plan: the plan.
        sample: index in the batch.
        rows: int64 [N], row of each of the unit's visual tokens in the forward; on the host.
    """

    plan: PruningPlan
    sample: int
    rows: HostInts


@dataclass(frozen=True, eq=False)
class StageRows:
    """Rows that run from one boundary to the next.

    Attributes:
        boundary: first decoder layer of the stage.
        gather: int64 [batch, rows], where the rows are found among the rows of the stage before.
        logical: int64 [batch, rows], row in the unpruned forward.
        valid: bool [batch, rows], False for filler on the left of samples with fewer rows; ``None`` if there is none.
    """

    boundary: int
    gather: Tensor
    logical: Tensor
    valid: Tensor | None


def stage_rows(plans: Sequence[PlacedPlan], present: HostBools, device: torch.device | str) -> tuple[StageRows, ...]:
    """Rows of every stage.

    All sizes are known on the host from the plans' counts, so nothing is read back from the device.

    Args:
        plans: the units of the batch.
        present: bool [batch, queries], False for padding; padding is dropped with the first pruned tokens.
        device: where the decoder runs.
    """
    boundaries = plans[0].plan.boundaries
    batch, queries = present.shape
    textual = present.copy()
    for placed in plans:
        textual[placed.sample, placed.rows] = False
    counts = np.stack([textual.sum(axis=1)] * len(boundaries))
    keeps = [torch.from_numpy(textual).to(device, copy=True) for _ in boundaries]
    for placed in plans:
        rows = torch.from_numpy(placed.rows).to(device)
        for stage, kept in enumerate(placed.plan.kept):
            keeps[stage][placed.sample, rows[kept.to(device)]] = True
            counts[stage, placed.sample] += len(kept)

    stages: list[StageRows] = []
    logical = torch.arange(queries, device=device).expand(batch, -1)
    for stage, boundary in enumerate(boundaries):
        keep = keeps[stage].gather(1, logical)
        if stage and stages[-1].valid is not None:
            keep &= stages[-1].valid
        width = int(counts[stage].max())
        # Stable sort of a mask: what is kept moves to the right end, in order.
        gather = keep.to(torch.uint8).argsort(dim=1, stable=True)[:, -width:] if width else logical[:, :0]
        logical = logical.gather(1, gather)
        valid = None if (counts[stage] == width).all() else keep.gather(1, gather)
        stages.append(StageRows(boundary, gather, logical, valid))
    return tuple(stages)


def take_rows(hidden: Tensor, rows: Tensor) -> Tensor:
    """Some rows of each sample.

    Args:
        hidden: [batch, queries, features].
        rows: int64 [batch, rows]; on any device.

    Returns:
        [batch, rows, features].
    """
    return hidden.gather(1, rows.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1]))


def merge_rows(hidden: Tensor, plans: Sequence[PlacedPlan]) -> Tensor:
    """Write each recycled token over its anchor's row (paper Eq. 7).

    Args:
        hidden: [batch, queries, features], before the first stage's rows are gathered.
        plans: the units of the batch; those without recycling are left alone.

    Returns:
        A tensor like ``hidden``. Means are taken in float32. Rows of visual tokens that are not retained hold no
        meaningful value.
    """
    merging = [placed for placed in plans if placed.plan.recycled]
    if not merging:
        return hidden
    hidden = hidden.clone()
    for placed in merging:
        rows = torch.from_numpy(placed.rows).to(hidden.device)
        anchor, weight = placed.plan.anchor.to(hidden.device), placed.plan.weight.to(hidden.device)
        members = hidden[placed.sample, rows].float() * weight[:, None]
        slots = torch.zeros_like(members).index_add_(0, anchor.clamp(min=0), members)
        hidden[placed.sample, rows] = slots.to(hidden.dtype)
    return hidden
