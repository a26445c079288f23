"""From a backbone's inputs to placed plans: find units, score them, plan them."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vflowopt import Strategy
from vflowopt.arrays import HostBools, HostInts, to_numpy
from vflowopt.components import Score
from vflowopt.errors import InputError, UnsupportedOperationError
from vflowopt.plans.planning import PlanDraft, check_importance
from vflowopt.plans.sharing import counts_of
from vflowopt_hf.family import Unit
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.entering import EnteringRows
from vflowopt_hf.plans.known import KnownPrefills
from vflowopt_hf.plans.rows import BatchRows, PlacedPlan, joined
from vflowopt_hf.plans.unit_context import UnitContext
from vflowopt_hf.plans.unit_groups import plan_all
from vflowopt_hf.vision.encoders import Encoding
from vflowopt_hf.vision.unit_joining import take_units


@dataclass(frozen=True, eq=False)
class PlacedUnit:
    """A unit with its place in the batch: sample, and the row of each of its visual tokens.

    Attributes:
        context: what scorers see of it.
        sample: index in the batch.
        rows: int64 [N].
    """

    context: UnitContext
    sample: int
    rows: HostInts

    def mapped(self, change: Callable[[Tensor], Tensor], embeddings: Tensor) -> "PlacedUnit":
        """The same unit with query and key changed, for example moved, and in other embeddings."""
        attention, entering = self.context.attention.mapped(change), replace(self.context.entering, states=embeddings)
        layers = {number: source.mapped(change) for number, source in self.context.layers.items()}
        return replace(self, context=replace(self.context, attention=attention, layers=layers, entering=entering))


@dataclass(frozen=True, eq=False)
class Prefill:
    """A forward that brings visual tokens.

    Attributes:
        units: in prompt order (sample, then row).
        table: where text and units are.
    """

    units: tuple[PlacedUnit, ...]
    table: BatchRows

    @property
    def present(self) -> HostBools:
        """Bool [batch, queries], False for padding."""
        return self.table.present


def place_units(
    placeholders: Mapping[str, int],
    encodings: Sequence[Encoding],
    input_ids: object,
    attention_mask: object,
    statistics: PixelStatistics,
    embeddings: Tensor,
    following: int = 0,
    known: KnownPrefills | None = None,
    filler: int = 0,
) -> Prefill:
    """Find the visual tokens of encoded units in a prompt.

    Args:
        placeholders: token id of each modality.
        encodings: at most one per modality.
        input_ids: int64 [batch, queries].
        attention_mask: [batch, past + queries], or None.
        statistics: pixel normalisation to invert for patch entropy.
        embeddings: [batch, queries + filler, features], what enters the decoder.
        following: tokens at the end of every sample that come after its prompt.
        known: what earlier prefills had in common with this one.
        filler: rows after them that are no tokens; they run as if they were.

    Raises:
        InputError: the prompt's placeholders do not match the encoded units.
        UnsupportedOperationError: no token ids, or a mask that is not 2-dimensional.
    """
    if not isinstance(input_ids, Tensor):
        raise UnsupportedOperationError("pruning finds visual tokens by input_ids; pass them, not inputs_embeds")
    if attention_mask is not None and not (isinstance(attention_mask, Tensor) and attention_mask.ndim == 2):
        raise UnsupportedOperationError(
            "pruning needs a 2-dimensional attention_mask, as the processor makes it, or none"
        )
    ids: HostInts = input_ids.cpu().numpy()
    present = np.ones(ids.shape, dtype=bool)
    if attention_mask is not None:
        present = attention_mask.cpu().numpy()[:, -ids.shape[1] :].astype(bool)
    if filler:
        present, following = np.pad(present, ((0, 0), (0, filler)), constant_values=True), following + filler
    known = known or KnownPrefills()
    found = sorted(_found(placeholders, encodings, ids), key=lambda one: (one.sample, int(one.rows[0])))
    # Beams repeat each sample so many times in a row.
    copies = sorted(
        ((unit, one.sample + copy) for unit, one in enumerate(found) for copy in range(one.encoding.copies)),
        key=lambda entry: (entry[1], entry[0]),
    )
    table = known.table([(sample, found[unit].rows) for unit, sample in copies], present, embeddings.device, following)
    number = {unit: index for index, (unit, _) in reversed(list(enumerate(copies)))}
    contexts = [
        one.context(known, statistics, EnteringRows(embeddings, table, number[unit])) for unit, one in enumerate(found)
    ]
    return Prefill(tuple(PlacedUnit(contexts[unit], sample, found[unit].rows) for unit, sample in copies), table)


@dataclass(frozen=True, eq=False)
class _Found:
    """A unit and where its tokens are.

    Attributes:
        encoding: that it is of.
        unit: what was encoded.
        sample: the first one that it belongs to.
        rows: int64 [N].
    """

    encoding: Encoding
    unit: Unit
    sample: int
    rows: HostInts

    def context(self, known: KnownPrefills, statistics: PixelStatistics, entering: EnteringRows) -> UnitContext:
        """What scorers see of it."""
        views, places = self.unit.views, self.unit.places
        unit = replace(self.unit, layout=known.layout(self.unit.layout))
        layers = {number: source.views(views, places) for number, source in self.encoding.layers.items()}
        attention, rows = self.encoding.attention.views(views, places), self.encoding.class_rows.views(views, places)
        return UnitContext(unit, attention, rows, layers, statistics, entering)


def _found(placeholders: Mapping[str, int], encodings: Sequence[Encoding], ids: HostInts) -> Iterator[_Found]:
    batch = len(ids)
    for encoding in encodings:
        if batch % encoding.copies:
            raise _mismatch(encoding, ids, placeholders)
        parts = deque(encoding.units)
        for sample in range(0, batch, encoding.copies):
            rows = np.flatnonzero(ids[sample] == placeholders[encoding.modality])
            for unit in take_units(parts, len(rows), encoding.tokens_per_unit(ids[sample])):
                own, rows = np.split(rows, [unit.layout.tokens])
                yield _Found(encoding, unit, sample, own)
            if len(rows):
                raise _mismatch(encoding, ids, placeholders)
        if parts:
            raise _mismatch(encoding, ids, placeholders)


def require_no_placeholders(placeholders: Mapping[str, int], input_ids: Tensor) -> None:
    """Check that a prompt that comes without anything visual has no place for it.

    Raises:
        InputError: it has.
    """
    for modality, token in placeholders.items():
        found = int((input_ids == token).sum())
        if found:
            raise InputError(
                f"the prompt holds {found} {modality} tokens, but neither pixels nor features came with it; pass all "
                f"that the processor returned"
            )


def _mismatch(encoding: Encoding, ids: HostInts, placeholders: Mapping[str, int]) -> InputError:
    found = int((ids == placeholders[encoding.modality]).sum())
    expected = encoding.copies * sum(unit.layout.tokens for unit in encoding.units)
    return InputError(
        f"the prompt holds {found} {encoding.modality} tokens in this forward, but the pixels make {expected}, as "
        f"whole units per sample; pass prompts as the processor made them (while pruning, prefill cannot be chunked)"
    )


@dataclass(frozen=True, eq=False)
class ScoredUnit:
    """A unit's plan as far as it is known before the LLM, its place, and what the scorer had to say about it."""

    draft: PlanDraft
    sample: int
    rows: HostInts
    score: Score

    @property
    def placed(self) -> PlacedPlan:
        """The plan in its place."""
        return PlacedPlan(self.draft.plan, self.sample, self.rows)

    def details(self) -> dict[str, tuple[int, ...]]:
        """The scorer's details on the host."""
        return {name: tuple(np.atleast_1d(to_numpy(value)).tolist()) for name, value in self.score.details.items()}


def plan_units(strategy: Strategy, units: Sequence[PlacedUnit], *, wait: bool = True) -> list[ScoredUnit]:
    """Score and plan every unit (paper Algorithm 1); beams of one sample share the plan.

    Args:
        strategy: the strategy.
        units: of a batch.
        wait: check that importance is finite, which waits for it; else :func:`require_finite` does.

    Raises:
        ImportanceError: an importance map is not finite or has the wrong shape.
        StrategyError: the schedule shares tokens among units in a way that does not meet its budget.
    """
    made = plan_all(strategy, _counts(strategy, units))
    scored = [
        ScoredUnit(draft, placed.sample, placed.rows, score)
        for placed in units
        for draft, score in (made[placed.context],)
    ]
    if wait:
        require_finite(scored)
    return scored


def require_finite(units: Sequence[ScoredUnit]) -> None:
    """Check that the importance of all units was finite, which waits for it.

    Raises:
        ImportanceError: that of one was not.
    """
    importance = [unit.score.importance for unit in units if isinstance(unit.score.importance, Tensor)]
    if not importance:
        return
    values = joined(importance, importance[0].device)
    if float((values - values).sum()):  # 0 of finite values, else not a number
        for unit in units:  # tokens without a patch may have any
            check_importance(unit.score.importance, unit.draft.layout)


def _counts(strategy: Strategy, units: Sequence[PlacedUnit]) -> dict[UnitContext, tuple[int, ...]]:
    """Counts of every unit, shared among those of its sample; beams have the units of the sample that they repeat."""
    homes: dict[UnitContext, int] = {}
    for placed in units:
        homes.setdefault(placed.context, placed.sample)
    samples: dict[int, list[UnitContext]] = {}
    for context, sample in homes.items():
        samples.setdefault(sample, []).append(context)
    counts: dict[UnitContext, tuple[int, ...]] = {}
    for own in samples.values():
        with torch.no_grad():
            counts.update(zip(own, counts_of(strategy.schedule, own), strict=True))
    return counts
