"""A strategy brought to another average retention, or to a decoder of another depth or with other stages."""

from collections.abc import Sequence

import numpy as np

from vflowopt.components.schedule import Progressive, check_budget, default_stages, stage_widths
from vflowopt.errors import BudgetError, StrategyError
from vflowopt.strategies.strategy import Strategy

LEAST = 1e-6
"""Least cumulative retention of a stage. A stage that has any tokens keeps one at least, whatever its share."""


def at_budget(strategy: Strategy, budget: float, num_layers: int, stages: Sequence[int] | None = None) -> Strategy:
    """The strategy with an average retention of ``budget``, by a common factor on its cumulative retentions.

    The shape of its split survives; what the factor would bring above 1 is clipped, and the other stages make up for
    it. Everything but the schedule stays, and the provenance goes.

    Args:
        strategy: with a progressive schedule.
        budget: average retention in (0, 1].
        num_layers: decoder layers L.
        stages: decoder layers before which to prune; by default the strategy's own, or, if it was made for a decoder
            of another depth and prunes at that one's default stages, the default ones of this depth.

    Raises:
        BudgetError: the budget is outside (0, 1], or less than the layers before the first stage use alone.
        StrategyError: another schedule, or stages beyond the last layer.
    """
    schedule = strategy.schedule
    if not isinstance(schedule, Progressive):
        raise StrategyError(
            f"only a progressive schedule can be brought to another budget, not {schedule.component_name()!r}"
        )
    origin = (strategy.provenance and strategy.provenance.num_layers) or num_layers
    chosen = tuple(stages) if stages is not None else _stages_at(schedule.stages, origin, num_layers)
    shape = _shape_at(schedule, origin, chosen, num_layers)
    fitted = Progressive.from_cumulative(chosen, proportional(shape, check_budget(budget), chosen, num_layers))
    return strategy.model_copy(update={"schedule": fitted, "provenance": None})


def proportional(shape: Sequence[float], budget: float, stages: Sequence[int], num_layers: int) -> tuple[float, ...]:
    """Cumulative retentions proportional to a non-increasing ``shape`` > 0, clipped, that meet the budget.

    Raises:
        BudgetError: no factor does.
        StrategyError: a stage lies beyond the last layer.
    """
    widths, weights = np.asarray(stage_widths(stages, num_layers)), np.asarray(shape, dtype=np.float64)
    target = budget * num_layers - stages[0]
    if target < LEAST * widths.sum() - 1e-9:
        raise BudgetError(
            f"an average retention of {budget:g} cannot be met with stages {tuple(stages)} of {num_layers} layers: "
            f"layers before the first stage run unpruned and use {stages[0] / num_layers:.4f} already"
        )
    # What a factor retains in all is piecewise linear in it, with a bend where a stage meets a clip.
    bends = np.sort(np.concatenate([LEAST / weights, 1.0 / weights]))
    retained = np.clip(bends[:, None] * weights, LEAST, 1.0) @ widths
    factor = np.interp(target, retained, bends)
    return tuple(np.clip(factor * weights, LEAST, 1.0).tolist())


def _stages_at(stages: tuple[int, ...], origin: int, num_layers: int) -> tuple[int, ...]:
    moved = origin != num_layers and stages == default_stages(origin)
    return tuple(dict.fromkeys(default_stages(num_layers))) if moved else stages


def _shape_at(schedule: Progressive, origin: int, stages: Sequence[int], num_layers: int) -> tuple[float, ...]:
    """Cumulative retention of each stage: stage by stage if there are as many, else the mean over the same depths."""
    own = schedule.cumulative
    if len(own) == len(stages):
        return own
    stage_widths(schedule.stages, origin)  # a schedule that does not fit its own decoder is refused
    depths = np.array([*schedule.stages, origin]) / origin
    wanted = np.array([*stages, num_layers]) / num_layers
    retained = np.concatenate([[0.0], np.cumsum(np.asarray(own) * np.diff(depths))])
    # Before its first stage a strategy retains everything, as if that stage's predecessor had a retention of 1.
    area = np.where(wanted < depths[0], wanted - depths[0], np.interp(wanted, depths, retained))
    return tuple((np.diff(area) / np.diff(wanted)).tolist())
