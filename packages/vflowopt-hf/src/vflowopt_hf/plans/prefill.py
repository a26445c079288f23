"""From a backbone's inputs to placed plans: find units, score them, plan them."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from vflowopt import Strategy
from vflowopt.arrays import HostBools, HostInts, to_numpy
from vflowopt.components import Score
from vflowopt.errors import InputError, UnsupportedOperationError
from vflowopt.plans.planning import PlanDraft, check_importance
from vflowopt.plans.sharing import counts_of
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.prompt_text import last_row, text_rows
from vflowopt_hf.plans.rows import PlacedPlan
from vflowopt_hf.plans.unit_context import UnitContext
from vflowopt_hf.vision.encoders import Encoding
from vflowopt_hf.vision.unit_joining import take_units


@dataclass(frozen=True, eq=False)
class PlacedUnit:
    """A unit with its place in the batch: sample, and the row of each of its visual tokens.

    Attributes:
        context: what scorers see of it.
        sample: index in the batch.
        rows: int64 [N].
        texts: int64 [texts], rows of the prompt's text after the unit; of its last token if there is none.
    """

    context: UnitContext
    sample: int
    rows: HostInts
    texts: HostInts

    def mapped(self, change: Callable[[Tensor], Tensor], embeddings: Tensor) -> "PlacedUnit":
        """The same unit with query and key changed, for example moved, and in other embeddings."""
        attention = self.context.attention.mapped(change)
        own, prompt = (partial(_take, embeddings, self.sample, rows) for rows in (self.rows, self.texts))
        layers = {number: source.mapped(change) for number, source in self.context.layers.items()}
        context = replace(self.context, attention=attention, layers=layers, embeddings=own, prompt=prompt)
        return replace(self, context=context)


@dataclass(frozen=True, eq=False)
class Prefill:
    """A forward that brings visual tokens.

    Attributes:
        units: in prompt order (sample, then row).
        present: bool [batch, queries], False for padding.
    """

    units: tuple[PlacedUnit, ...]
    present: HostBools


def place_units(
    placeholders: Mapping[str, int],
    encodings: Sequence[Encoding],
    input_ids: object,
    attention_mask: object,
    statistics: PixelStatistics,
    embeddings: Tensor,
    following: int = 0,
) -> Prefill:
    """Find the visual tokens of encoded units in a prompt.

    Args:
        placeholders: token id of each modality.
        encodings: at most one per modality.
        input_ids: int64 [batch, queries].
        attention_mask: [batch, past + queries], or None.
        statistics: pixel normalisation to invert for patch entropy.
        embeddings: [batch, queries, features], what enters the decoder.
        following: tokens at the end of every sample that come after its prompt.

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
    batch, queries = ids.shape
    present = np.ones(ids.shape, dtype=bool)
    if attention_mask is not None:
        present = attention_mask[:, -queries:].cpu().numpy().astype(bool)
    textual = present & ~np.isin(ids, list(placeholders.values()))
    placed: list[PlacedUnit] = []
    for encoding in encodings:
        copies = encoding.copies  # beams repeat each sample that many times in a row
        if batch % copies:
            raise _mismatch(encoding, ids, placeholders)
        parts = deque(encoding.units)
        for sample in range(0, batch, copies):
            rows = np.flatnonzero(ids[sample] == placeholders[encoding.modality])
            for unit in take_units(parts, len(rows), encoding.tokens_per_unit(ids[sample])):
                attention = encoding.attention.views(unit.views, unit.places)
                class_rows = encoding.class_rows.views(unit.views, unit.places)
                own, rows = np.split(rows, [unit.layout.tokens])
                texts = text_rows(own, textual[sample], last_row(present[sample], following))
                taken, prompt = (partial(_take, embeddings, sample, some) for some in (own, texts))
                layers = {number: source.views(unit.views, unit.places) for number, source in encoding.layers.items()}
                context = UnitContext(unit, attention, class_rows, layers, statistics, taken, prompt)
                placed.extend(PlacedUnit(context, sample + copy, own, texts) for copy in range(copies))
            if len(rows):
                raise _mismatch(encoding, ids, placeholders)
        if parts:
            raise _mismatch(encoding, ids, placeholders)
    placed.sort(key=lambda entry: (entry.sample, int(entry.rows[0])))
    return Prefill(tuple(placed), present)


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


def _take(embeddings: Tensor, sample: int, rows: HostInts) -> Tensor:
    return embeddings[sample, torch.from_numpy(rows).to(embeddings.device, non_blocking=True)]


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

    def require_finite(self) -> None:
        """Check that the importance was finite, which waits for it.

        Raises:
            ImportanceError: it was not.
        """
        check_importance(self.score.importance, self.draft.layout)

    def details(self) -> dict[str, tuple[int, ...]]:
        """The scorer's details on the host."""
        return {name: tuple(np.atleast_1d(to_numpy(value)).tolist()) for name, value in self.score.details.items()}


def plan_units(strategy: Strategy, units: Sequence[PlacedUnit], *, wait: bool = True) -> list[ScoredUnit]:
    """Score and plan every unit (paper Algorithm 1); beams of one sample share the plan.

    Args:
        strategy: the strategy.
        units: of a batch.
        wait: check that importance is finite, which waits for it; else :meth:`ScoredUnit.require_finite` does.

    Raises:
        ImportanceError: an importance map is not finite or has the wrong shape.
        StrategyError: the schedule shares tokens among units in a way that does not meet its budget.
    """
    made: dict[UnitContext, tuple[PlanDraft, Score]] = {}
    for context, counts in _counts(strategy, units).items():
        with torch.no_grad():
            score = strategy.scorer.score_retaining(context, counts[0])
            made[context] = strategy.draft(score.importance, context.layout, context, counts, wait=wait), score
    return [
        ScoredUnit(draft, placed.sample, placed.rows, score)
        for placed in units
        for draft, score in (made[placed.context],)
    ]


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
