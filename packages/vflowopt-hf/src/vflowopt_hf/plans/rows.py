"""Which rows of one forward each stage processes, for a whole batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vflowopt.arrays import HostBools, HostInts
from vflowopt.plans.plan import PruningPlan


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
        bias: float32 [batch, rows], what is added to the attention logits of their keys; ``None`` if nothing.
        queries: rows of the unpruned forward.
        tail: rows at its end that are text in every sample, and so are retained.
    """

    boundary: int
    gather: Tensor
    logical: Tensor
    valid: Tensor | None
    bias: Tensor | None
    queries: int
    tail: int

    def places(self, sample: int, rows: Tensor) -> Tensor:
        """Where rows of a sample's unpruned forward are among the stage's; any place for those that it does not hold.

        Args:
            sample: index in the batch.
            rows: int64 [rows].
        """
        logical = self.logical[sample].to(rows.device)
        places = torch.arange(len(logical), device=rows.device)
        return torch.zeros(self.queries, dtype=torch.int64, device=rows.device).scatter(0, logical, places)[rows]


class BatchRows:
    """Where text and units are in a batch: gives each stage's rows from the tokens that it keeps.

    All sizes are known on the host from the plans' counts, so nothing is read back from the device, and everything that
    the device needs of the host is there from the beginning.

    Args:
        places: of each unit, the sample and the rows of its tokens, int64 [N]; on the host.
        present: bool [batch, queries], False for padding; padding is dropped with the first pruned tokens.
        device: where the decoder runs.
        following: tokens at the end of every sample that come after its prompt, as drafts of its answer.

    Attributes:
        samples: of each unit, its index in the batch.
        visual: int64 [N] per unit, the rows of its tokens; on the host.
        rows: the same on the device.
        present: as given.
        textual: bool [batch, queries], what is present and belongs to no unit; on the host.
        tail: rows at the end that are text in every sample.
        following: as given.
    """

    def __init__(
        self,
        places: Sequence[tuple[int, HostInts]],
        present: HostBools,
        device: torch.device | str,
        following: int = 0,
    ) -> None:
        self.following = following
        self.samples = tuple(sample for sample, _ in places)
        self.visual = tuple(rows for _, rows in places)
        self.present, self.textual = present, present.copy()
        for sample, rows in zip(self.samples, self.visual, strict=True):
            self.textual[sample, rows] = False
        self.tail = int(np.logical_and.accumulate(self.textual[:, ::-1], axis=1).sum(axis=1).min())
        self._counts, self._textual = self.textual.sum(axis=1), _on(device, self.textual)
        self.rows = tuple(_on(device, rows) for rows in self.visual)

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
        boundary = plans[0].plan.boundaries[number]
        logical = logical.gather(1, gather)
        bias = self._bias(number, plans, logical.device)
        bias = None if bias is None else bias.gather(1, logical)
        return StageRows(boundary, gather, logical, valid, bias, self.queries, self.tail)

    def _bias(self, number: int, plans: Sequence[PlacedPlan], device: torch.device) -> Tensor | None:
        """What a stage adds to the attention logits of keys, by rows of the unpruned forward: [batch, queries]."""
        if not any(placed.plan.bias for placed in plans):
            return None
        bias = torch.zeros(self.present.shape, device=device)
        for placed, rows in zip(plans, self.rows, strict=True):
            if placed.plan.bias:
                tokens, own = placed.plan.kept[number].to(device), placed.plan.bias[number].to(device, torch.float32)
                bias[placed.sample].index_copy_(0, rows[tokens], own)
        return bias


def _on(device: torch.device | str, host: HostInts | HostBools) -> Tensor:
    """A host array on a device; the copy is not waited for."""
    return torch.from_numpy(host).to(device, non_blocking=True)


def take_rows(hidden: Tensor, rows: Tensor) -> Tensor:
    """Some rows of each sample.

    Args:
        hidden: [batch, queries, features].
        rows: int64 [batch, rows]; on any device.

    Returns:
        [batch, rows, features].
    """
    return hidden.gather(1, rows.to(hidden.device)[..., None].expand(-1, -1, hidden.shape[-1]))


def merge_rows(hidden: Tensor, plans: Sequence[PlacedPlan], number: int = 0, before: StageRows | None = None) -> Tensor:
    """Write each token that a stage recycles over its anchor's row (paper Eq. 7).

    Args:
        hidden: [batch, rows, features], before the stage's rows are gathered.
        plans: the units of the batch; those for which the stage merges nothing are left alone.
        number: of the stage.
        before: the stage whose rows ``hidden`` has; ``None`` for all rows of the unpruned forward.

    Returns:
        A tensor like ``hidden``. Means are taken in float32. Rows of visual tokens that are not retained hold no
        meaningful value.
    """
    merging = [(placed, merge) for placed in plans if (merge := placed.plan.merge_at(number)) is not None]
    if not merging:
        return hidden
    hidden = hidden.clone()
    for placed, merge in merging:
        rows = torch.from_numpy(placed.rows).to(hidden.device, non_blocking=True)
        rows = rows if before is None else before.places(placed.sample, rows)
        anchor, weight = merge.anchor.to(hidden.device), merge.weight.to(hidden.device)[:, None]
        members = (hidden[placed.sample, rows].float() * weight).masked_fill(weight == 0, 0)
        merged = torch.zeros_like(members).index_add_(0, anchor.clamp(min=0), members)
        retained = placed.plan.kept[number].to(hidden.device)
        hidden[placed.sample, rows[retained]] = merged[retained].to(hidden.dtype)
    return hidden


def has_row_per_token(value: Any, table: BatchRows) -> bool:
    """Whether something is a tensor [batch, queries, features] of a forward that is not pruned yet."""
    return isinstance(value, Tensor) and value.ndim == 3 and value.shape[:2] == table.present.shape


def rows_of_stage(full: Tensor, plans: Sequence[PlacedPlan], number: int, stage: StageRows) -> Tensor:
    """A stage's rows of what has a row per token of the unpruned forward.

    A recycled token stands for its members at every depth: its row is the mean of theirs, with the weights that merged
    their embeddings or hidden states (paper Eq. 7).

    Args:
        full: [batch, queries, features].
        plans: the units of the batch.
        number: of the stage.
        stage: its rows.

    Returns:
        [batch, rows, features].
    """
    for earlier in range(number + 1):
        full = merge_rows(full, plans, earlier)
    return take_rows(full, stage.logical)


def token_states(hidden: Tensor, sample: int, rows: Tensor, before: StageRows | None, tokens: Tensor) -> Tensor:
    """Hidden states of some of a unit's tokens, float32 [tokens, features], where ``tokens`` are.

    Args:
        hidden: [batch, rows, features].
        sample: the unit's.
        rows: int64 [N], row of each of the unit's tokens in the unpruned forward.
        before: the stage whose rows ``hidden`` has; ``None`` for all rows of the unpruned forward.
        tokens: int64 [tokens], which of the N; they are among the rows.
    """
    wanted = rows.to(hidden.device)[tokens.to(hidden.device)]
    wanted = wanted if before is None else before.places(sample, wanted)
    return hidden[sample][wanted].float().to(tokens.device)
