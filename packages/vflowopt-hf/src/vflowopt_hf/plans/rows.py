"""Which rows of one forward each stage processes, for a whole batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vflowopt.arrays import HostBools, HostInts
from vflowopt.memory import Memory
from vflowopt.plans.plan import PruningPlan
from vflowopt_hf.plans.placing import on_device
from vflowopt_hf.plans.prompt_text import last_row, text_rows

REMEMBERED = 16
"""How many lists of counts a table remembers what depends on them: a few stages of a few strategies."""


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
        samples: int64 [batch, 1], 0, 1, ...: with ``gather`` or ``logical`` it finds rows of all samples.
        queries: rows of the unpruned forward.
        tail: rows at its end that are text in every sample, and so are retained.
    """

    boundary: int
    gather: Tensor
    logical: Tensor
    valid: Tensor | None
    bias: Tensor | None
    samples: Tensor
    queries: int
    tail: int

    @cached_property
    def place(self) -> Tensor:
        """Where rows of the unpruned forward are among the stage's: int64 [batch, queries].

        Any place for those that it does not hold.
        """
        batch, rows = self.logical.shape
        number = torch.arange(rows, device=self.logical.device).expand(batch, -1)
        everywhere = torch.zeros(batch, self.queries, dtype=torch.int64, device=self.logical.device)
        return everywhere.scatter_(1, self.logical, number)

    @property
    def flat_place(self) -> Tensor:
        """The same with the stage's rows of all samples one after the other: int64 [batch * queries]."""
        return (self.place + self.samples * self.logical.shape[1]).flatten()

    def places(self, sample: int, rows: Tensor) -> Tensor:
        """The same of some rows of a sample.

        Args:
            sample: index in the batch.
            rows: int64 [rows].
        """
        return self.place[sample].to(rows.device)[rows]


class BatchRows:
    """Where text and units are in a batch: gives each stage's rows from the tokens that it keeps.

    All sizes are known on the host from the plans' counts, so nothing is read back from the device, and everything that
    the device needs of the host is there from the beginning, in one copy.

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
        self._counts = self.textual.sum(axis=1)
        batch, queries = present.shape
        sizes = [len(rows) for rows in self.visual]
        own = np.concatenate([np.zeros(0, dtype=np.int64), *self.visual])
        flat = own + queries * np.repeat(np.array(self.samples, dtype=np.int64), sizes)
        parts = (own, flat, np.arange(batch), self.textual.reshape(-1).astype(np.int64))
        rows, flat_rows, number, textual = on_device(np.concatenate(parts), device).split(list(map(len, parts)))
        self.rows, self._flat_rows = rows.split(sizes), flat_rows.split(sizes)
        self._number, self._textual = number[:, None], textual.to(torch.uint8)
        self._remembered: Memory[Tensor] = Memory(REMEMBERED)

    @property
    def queries(self) -> int:
        """Rows of the unpruned forward."""
        return int(self.present.shape[1])

    def on(self, device: torch.device) -> "BatchRows":
        """The same batch where the decoder runs on another device."""
        if device == self._number.device:
            return self
        return BatchRows(list(zip(self.samples, self.visual, strict=True)), self.present, device, self.following)

    def last(self, unit: int) -> HostInts:
        """Row of the last token of the prompt that a unit is in, int64 [1]; see :func:`last_row`."""
        return last_row(self.present[self.samples[unit]], self.following)

    def text(self, unit: int) -> HostInts:
        """Rows of a prompt's text after a unit, int64 [texts]; see :func:`text_rows`."""
        return text_rows(self.visual[unit], self.textual[self.samples[unit]], self.last(unit))

    def text_on_device(self, unit: int) -> Tensor:
        """The same on the device, copied there once."""
        return self._remembered.get(("text", unit), lambda: on_device(self.text(unit), self._number.device))

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
        counts = self._counts.copy()
        for placed in plans:
            counts[placed.sample] += len(placed.plan.kept[number])
        width, (batch, queries) = int(counts.max()), self.present.shape
        rows = self.flat(range(len(plans)), [placed.plan.kept[number] for placed in plans])
        keep = self._textual.clone().index_fill_(0, rows, 1).view(batch, queries)
        keep = keep if before is None else keep.gather(1, before.logical)
        # Stable sort of a mask: what is kept moves to the right end, in order.
        kept, order = keep.sort(dim=1, stable=True)
        first = keep.shape[1] - width
        gather = order[:, first:]
        valid = None if (counts == width).all() else kept[:, first:].bool()
        logical = gather if before is None else before.logical.gather(1, gather)
        bias = self._bias(number, plans)
        bias = None if bias is None else bias.gather(1, logical)
        boundary = plans[0].plan.boundaries[number]
        return StageRows(boundary, gather, logical, valid, bias, self._number, queries, self.tail)

    def _bias(self, number: int, plans: Sequence[PlacedPlan]) -> Tensor | None:
        """What a stage adds to the attention logits of keys, by rows of the unpruned forward: [batch, queries]."""
        units = [unit for unit, placed in enumerate(plans) if placed.plan.bias]
        if not units:
            return None
        rows = self.flat(units, [plans[unit].plan.kept[number] for unit in units])
        own = joined([plans[unit].plan.bias[number] for unit in units], rows.device)
        bias = torch.zeros(self.present.size, device=rows.device)
        return bias.index_copy_(0, rows, own.float()).view(self.present.shape)

    def flat(self, units: Sequence[int], tokens: Sequence[Tensor] | None = None) -> Tensor:
        """Rows of some units, those of all samples one after the other: int64 [tokens].

        Args:
            units: their numbers; at least one.
            tokens: of each, numbers of the tokens that are asked for; ``None`` for all.
        """
        rows = joined([self._flat_rows[unit] for unit in units], self._number.device)
        if tokens is None:
            return rows
        return rows.index_select(0, self.shifted(units, tokens, rows.device))

    def shifted(self, units: Sequence[int], tokens: Sequence[Tensor], device: torch.device) -> Tensor:
        """Numbers of tokens in each of some units as numbers among the tokens of all of these: int64 [tokens]."""
        numbers = joined(tokens, device)
        if len(tokens) == 1:
            return numbers
        counts = tuple(map(len, tokens))

        def made() -> Tensor:
            starts = np.cumsum([0, *(len(self.visual[unit]) for unit in units)])[:-1]
            return on_device(np.repeat(starts, counts), device)

        return numbers + self._remembered.get((tuple(units), counts, device), made)


def joined(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """Tensors one after the other, on a device; at least one."""
    there = [part.to(device) for part in parts]
    return there[0] if len(there) == 1 else torch.cat(there)


def take_rows(hidden: Tensor, samples: Tensor, rows: Tensor) -> Tensor:
    """Some rows of each sample.

    Args:
        hidden: [batch or 1, queries, features].
        samples: int64 [batch, 1], 0, 1, ...; on any device.
        rows: int64 [batch, rows]; likewise.

    Returns:
        [batch, rows, features].
    """
    whole = hidden if len(hidden) == len(rows) else hidden.expand(len(rows), -1, -1)
    return whole[samples.to(hidden.device), rows.to(hidden.device)]


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
