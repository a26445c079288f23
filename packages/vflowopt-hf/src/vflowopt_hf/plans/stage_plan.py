"""What one forward of the decoder prunes, decided before it or, stage by stage, by what its layers attend to."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vflowopt import Strategy
from vflowopt.components.stage_scoring import StageScorer
from vflowopt.plans.planning import PlanDraft
from vflowopt_hf.plans.decoder_attention import AttentionCall
from vflowopt_hf.plans.decoder_context import DecoderContext
from vflowopt_hf.plans.prefill import ScoredUnit
from vflowopt_hf.plans.rows import BatchRows, PlacedPlan, StageRows, token_states


@dataclass(eq=False)
class StagePlan:
    """What one forward of the decoder prunes.

    Attributes:
        scorer: ranks anew where stages are still to be decided, if it ranks there.
        boundaries: first decoder layer of each stage.
        drafts: of each unit.
        plans: the same with their places in the batch, as far as they are decided.
        table: rows of the batch.
        stages: rows of the stages that are decided.
    """

    scorer: StageScorer | None
    boundaries: tuple[int, ...]
    drafts: tuple[PlanDraft, ...]
    plans: tuple[PlacedPlan, ...]
    table: BatchRows
    stages: tuple[StageRows, ...]

    @classmethod
    def of(cls, strategy: Strategy, units: Sequence[ScoredUnit], table: BatchRows) -> "StagePlan | None":
        """Build it; ``None`` if there is nothing to drop, so that upstream runs bitwise as it is.

        Args:
            strategy: the strategy.
            units: of the batch.
            table: the batch, where the decoder runs.
        """
        plans = tuple(unit.placed for unit in units)
        if all(placed.plan.is_identity for placed in plans):
            return None
        drafts = tuple(unit.draft for unit in units)
        return cls(strategy.stage_scorer, strategy.schedule.boundaries, drafts, plans, table, table.stages(plans))

    def stage_at(self, layer: int) -> int | None:
        """The stage that decoder layer ``layer`` belongs to; ``None`` before the first."""
        return bisect_right(self.boundaries, layer) - 1 if layer >= self.boundaries[0] else None

    def awaits(self, layer: int) -> bool:
        """Whether a stage that is still to be decided begins with decoder layer ``layer``."""
        return layer in self.boundaries[len(self.stages) :]

    def decide(self, call: AttentionCall | None, entered: Tensor | None, hidden: Tensor) -> None:
        """Decide the next stage by the attention of the layer before it; nothing is read back from the device.

        Args:
            call: the layer's attention, if the scorer ranks by it.
            entered: [batch, queries, features], what entered the decoder, likewise.
            hidden: [batch, rows, features], what enters the stage's first layer, with the rows of the stage before.
        """
        self.drafts = tuple(self._decided(unit, call, entered, hidden) for unit in range(len(self.drafts)))
        self.plans = tuple(
            replace(placed, plan=draft.plan) for placed, draft in zip(self.plans, self.drafts, strict=True)
        )
        self.stages = self.table.stages(self.plans, self.stages)

    @property
    def is_even(self) -> bool:
        """Whether all samples bring and retain the same number of tokens: no padding, and no filler in any stage."""
        rows = np.stack([self.table.present.sum(axis=1), *([self.table.textual.sum(axis=1)] * len(self.boundaries))])
        for draft, sample in zip(self.drafts, self.table.samples, strict=True):
            rows[1:, sample] += draft.counts
        return bool((rows == rows[:, :1]).all() and self.table.present.all())

    def before(self, number: int) -> StageRows | None:
        """The stage before another one; ``None`` before the first."""
        return self.stages[number - 1] if number else None

    def _decided(self, unit: int, call: AttentionCall | None, entered: Tensor | None, hidden: Tensor) -> PlanDraft:
        draft, number = self.drafts[unit], len(self.stages)
        if draft.stage > number:
            return draft
        with torch.no_grad():
            if draft.prunes_next and self.scorer is not None:
                assert call is not None
                assert entered is not None
                context = DecoderContext(draft.layout, self.table, unit, call, entered, self.before(number), hidden)
                draft = draft.ranked_by(
                    self.scorer.rescore_retaining(context, draft.counts[number]).to(draft.plan.importance.device)
                )
            sample, rows = self.table.samples[unit], self.table.rows[unit]
            return draft.decide(lambda tokens: token_states(hidden, sample, rows, self.before(number), tokens))


@dataclass(frozen=True)
class AttentionUse:
    """Decoder layers whose attention is looked at, or changed.

    Attributes:
        observed: layers by whose attention the stage after them is decided.
        biased: the first layer in which keys may have a bias; ``None`` if there is none.
    """

    observed: tuple[int, ...] = ()
    biased: int | None = None


def attention_use(strategy: Strategy) -> AttentionUse:
    """What a strategy does with the decoder's attention."""
    boundaries, mass = strategy.schedule.boundaries, strategy.mass
    return AttentionUse(
        observed=tuple(boundary - 1 for boundary in boundaries if boundary > 0) if strategy.stage_scorer else (),
        biased=boundaries[0] if mass is not None and mass.acts else None,
    )
