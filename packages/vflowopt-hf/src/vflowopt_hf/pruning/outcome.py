"""What one prefill did, from its first token ids to its report."""

from dataclasses import dataclass, field
from typing import Any

from vflowopt import PruningPlan, PruningReport, Strategy
from vflowopt.errors import PruningStateError
from vflowopt.report import BreakEven, UnitReport
from vflowopt_hf.decoder.kv_cache import kv_bytes, num_layers
from vflowopt_hf.family import Family
from vflowopt_hf.plans.prefill import ScoredUnit, require_finite
from vflowopt_hf.plans.stage_plan import StagePlan


@dataclass(eq=False)
class Outcome:
    """What one prefill did, as far as it has got.

    Attributes:
        family: of the model.
        model: the model.
        strategy: what prunes.
        shape: batch and tokens of the unpruned forward; ``None`` until the decoder has begun.
        filler: rows at its end that are no tokens.
        scored: of each unit, what was known before the LLM.
        stages: what the decoder's forward prunes; ``None`` if nothing.
        guard: what the guard expected.
        states: bytes of the states that the cache's recurrent layers hold after it.
    """

    family: Family
    model: Any
    strategy: Strategy
    shape: tuple[int, int] | None = None
    filler: int = 0
    scored: list[ScoredUnit] = field(default_factory=list)
    stages: StagePlan | None = None
    guard: BreakEven | None = None
    states: int = 0

    @property
    def plans(self) -> list[PruningPlan]:
        """One plan per unit, in prompt order, on the host.

        Raises:
            PruningStateError: the prefill ended before they were complete.
        """
        return [plan.to_host() for plan in self._complete()]

    def require_finite(self) -> None:
        """Check that importance was finite, which waits for it.

        Raises:
            ImportanceError: it was not.
        """
        require_finite(self.scored)

    def report(self) -> PruningReport:
        """The same in numbers.

        Raises:
            PruningStateError: the prefill ended before its plans were complete.
        """
        plans, layers = self._complete(), num_layers(self.family, self.model)
        assert self.shape is not None
        (batch, full), lengths = self.shape, self._sequence_lengths(layers)
        units = tuple(
            UnitReport(
                sample=scored.sample,
                tokens=plan.tokens,
                structural=int(plan.structural.sum()),
                counts=plan.counts,
                retention=plan.achieved_retention(layers),
                details=scored.details(),
            )
            for scored, plan in zip(self.scored, plans, strict=True)
        )
        return PruningReport(
            boundaries=self.strategy.schedule.boundaries,
            num_layers=layers,
            units=units,
            sequence_lengths=lengths,
            full_length=full,
            kv_cache_bytes=batch * kv_bytes(self.family, self.model, lengths),
            kv_cache_bytes_unpruned=batch * kv_bytes(self.family, self.model, [full] * layers),
            guard=self.guard,
            state_bytes=self.states,
        )

    def _complete(self) -> list[PruningPlan]:
        placed = [scored.placed for scored in self.scored] if self.stages is None else self.stages.plans
        plans = [entry.plan for entry in placed]
        if self.shape is None:
            raise PruningStateError("there is no report: the last prefill ended before anything was planned")
        if not all(plan.is_complete for plan in plans):
            raise PruningStateError(
                "there is no report: the last prefill ended before the layers that decide what this strategy prunes"
            )
        return plans

    def _sequence_lengths(self, layers: int) -> tuple[int, ...]:
        assert self.shape is not None
        rows = [self.shape[1]] * layers
        for layer in range(layers):
            stage = None if self.stages is None else self.stages.stage_at(layer)
            if self.stages is not None and stage is not None:
                rows[layer] = self.stages.stages[stage].logical.shape[1] - self.filler
        return tuple(rows)
