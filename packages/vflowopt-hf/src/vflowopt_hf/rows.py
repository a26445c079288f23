"""Which rows of one forward each stage processes, for a whole batch."""

from collections.abc import Sequence
from dataclasses import dataclass

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


class BatchRows:
    """Where text and units are in a batch: gives each stage's rows from the tokens that it keeps.

    All sizes are known on the host from the plans' counts, so nothing is read back from the device, and everything that
    the device needs of the host is there from the beginning.

    Args:
        places: of each unit, the sample and the rows of its tokens, int64 [N]; on the host.
        present: bool [batch, queries], False for padding; padding is dropped with the first pruned tokens.
        device: where the decoder runs.

    Attributes:
        samples: of each unit, its index in the batch.
        visual: int64 [N] per unit, the rows of its tokens; on the host.
        rows: the same on the device.
        present: as given.
        textual: bool [batch, queries], what is present and belongs to no unit; on the host.
    """

    def __init__(self, places: Sequence[tuple[int, HostInts]], present: HostBools, device: torch.device | str) -> None:
        self.samples = tuple(sample for sample, _ in places)
        self.visual = tuple(rows for _, rows in places)
        self.present, self.textual = present, present.copy()
        for sample, rows in zip(self.samples, self.visual, strict=True):
            self.textual[sample, rows] = False
        self._counts, self._textual = self.textual.sum(axis=1), torch.from_numpy(self.textual).to(device)
        self.rows = tuple(torch.from_numpy(rows).to(device) for rows in self.visual)

    @property
    def queries(self) -> int:
        """Rows of the unpruned forward."""
        return int(self.present.shape[1])

    def stages(self, plans: Sequence[PlacedPlan], known: tuple[StageRows, ...] = ()) -> tuple[StageRows, ...]:
        """Rows of the stages that every plan has decided.

        Args:
            plans: of the units.
            known: rows of earlier stages, computed before.
        """
        for number in range(len(known), min(len(placed.plan.kept) for placed in plans)):
            known = (*known, self._stage(number, plans, known[-1] if known else None))
        return known

    def _stage(self, number: int, plans: Sequence[PlacedPlan], before: StageRows | None) -> StageRows:
        counts, kept = self._counts.copy(), self._textual.clone()
        for placed, rows in zip(plans, self.rows, strict=True):
            tokens = placed.plan.kept[number]
            kept[placed.sample].index_fill_(0, rows[tokens.to(rows.device)], True)
            counts[placed.sample] += len(tokens)
        if before is None:
            logical = torch.arange(self.queries, device=kept.device).expand(len(kept), -1)
        else:
            logical = before.logical
        keep = kept.gather(1, logical)
        if before is not None and before.valid is not None:
            keep &= before.valid
        width = int(counts.max())
        # Stable sort of a mask: what is kept moves to the right end, in order.
        gather = keep.to(torch.uint8).argsort(dim=1, stable=True)[:, -width:] if width else logical[:, :0]
        valid = None if (counts == width).all() else keep.gather(1, gather)
        return StageRows(plans[0].plan.boundaries[number], gather, logical.gather(1, gather), valid)


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
