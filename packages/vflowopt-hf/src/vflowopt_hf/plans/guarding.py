"""The break-even guard: whether pruning pays for a forward, decided before any of it is computed."""

from collections.abc import Sequence

import numpy as np

from vflowopt import Strategy
from vflowopt.budgets.cost import CostModel
from vflowopt.budgets.lengths import SampleSize
from vflowopt.components import Score
from vflowopt.plans.planning import PlanDraft
from vflowopt.report import BreakEven
from vflowopt_hf.plans.prefill import PlacedUnit, Prefill, ScoredUnit


def break_even(cost: CostModel, strategy: Strategy, prefill: Prefill) -> BreakEven:
    """What a forward is expected to take, pruned and not: the whole batch, from its lengths alone.

    Raises:
        CostError: no strategy of this kind was measured.
    """
    units: list[list[int]] = [[] for _ in prefill.present]
    for unit in prefill.units:
        units[unit.sample].append(unit.context.layout.tokens)
    rows = prefill.present.sum(axis=1).tolist()
    samples = [SampleSize(count, tuple(tokens)) for count, tokens in zip(rows, units, strict=True)]
    return cost.break_even(strategy, samples, prefill.present.shape[1])


def left_alone(strategy: Strategy, units: Sequence[PlacedUnit]) -> list[ScoredUnit]:
    """Plans that retain everything; nothing is scored, so every importance is 0."""
    return [ScoredUnit(_whole(strategy, unit), unit.sample, unit.rows, _unscored(unit)) for unit in units]


def _unscored(unit: PlacedUnit) -> Score:
    return Score(np.zeros(unit.context.layout.tokens, dtype=np.float32), {})


def _whole(strategy: Strategy, unit: PlacedUnit) -> PlanDraft:
    boundaries, layout = strategy.schedule.boundaries, unit.context.layout
    draft = PlanDraft.start(_unscored(unit).importance, layout, boundaries, (layout.tokens,) * len(boundaries))
    while not draft.plan.is_complete:
        draft = draft.decide()
    return draft
