"""The search space: a unit cube that maps onto exactly the strategies with one average retention.

With cumulative retention k_s = R1 * ... * Rs the budget (paper Eq. 5; Algorithm 1, line 5) is linear, so the feasible
stage splits form a polytope that S - 1 numbers in [0, 1] fill: stage by stage, the lowest k_s is the one that later
stages can just keep up, the highest the one that leaves the later stages their least. Nothing is ever rejected.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vflowopt.components.schedule import Progressive, check_budget, default_stages, stage_widths
from vflowopt.errors import BudgetError, InputError, StrategyError
from vflowopt.layout import TokenLayout
from vflowopt.plans.competitors import SEPARATORS, Separators
from vflowopt.strategies.strategy import Strategy
from vflowopt.strategies.variables import (
    MAX_CELL,
    VARIABLES,
    Scale,
    check_values,
    scales,
    schedule_of,
    strategy_of,
    values_of,
)

Point = tuple[float, ...]
"""A point of the unit cube."""

FLOOR = 1e-6
"""Least cumulative retention of the last stage. Whatever it is, a unit keeps at least one token."""

ROUNDING = 1e-12
"""An interval of cumulative retentions narrower than this is a single value."""


@dataclass(frozen=True)
class SearchSpace:
    """All strategies of the paper's form, and with diversity, that retain ``budget`` on average: points of a unit cube.

    The S + 3 coordinates are the stage split (S - 1), threshold t, entropy weight alpha, cell a and diversity delta,
    less those that are fixed. The corner 0 is flat retention, plain mean attention, no entropy, no merging (a cell of 1
    holds one token), no diversity.

    Attributes:
        budget: average retention in (0, 1] that every strategy meets to 1e-9.
        num_layers: decoder layers L.
        stages: decoder layers before which to prune.
        max_cell: upper end of the cell's scale, in tokens.
        fixed: values of variables that do not vary, by name: ``{"diversity": 0}`` is the paper's own space,
            ``{"cell": 1}`` never merges.
        separators: what every strategy says of separators.

    Raises:
        BudgetError: no split meets the budget; names the smallest budget that one does.
        StrategyError: the stages do not fit the decoder, or a fixed variable does not exist or is off its scale.
    """

    budget: float
    num_layers: int
    stages: tuple[int, ...]
    max_cell: float = MAX_CELL
    fixed: Mapping[str, float] = field(default_factory=dict)
    separators: Separators = SEPARATORS

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_values(self.fixed)
        Progressive(stages=self.stages, retention=(1.0,) * len(self.stages))
        if self.budget < self.smallest_budget:
            shown = math.ceil(self.smallest_budget * 1e4) / 1e4  # rounded up, so that it can be typed in
            raise BudgetError(
                f"an average retention of {self.budget} cannot be met with stages {self.stages} of {self.num_layers} "
                f"layers: those before the first stage run unpruned, so the smallest feasible budget is {shown:.4f}"
            )

    @classmethod
    def of(
        cls,
        budget: float,
        num_layers: int,
        units: Iterable[TokenLayout] = (),
        stages: Sequence[int] | None = None,
        fixed: Mapping[str, float] | None = None,
    ) -> "SearchSpace":
        """The space with cells up to the widest grid of ``units``, by default with the paper's stages.

        Raises:
            BudgetError, StrategyError: see :class:`SearchSpace`.
        """
        # Under 3 layers some default stages coincide.
        chosen = tuple(dict.fromkeys(default_stages(num_layers))) if stages is None else tuple(map(int, stages))
        found = [unit for unit in units if unit.tokens]
        side = max((int(unit.position[:, 1:].max()) + 1 for unit in found), default=MAX_CELL)
        return cls(
            budget=float(check_budget(budget)),
            num_layers=num_layers,
            stages=chosen,
            max_cell=float(min(max(side, 1), MAX_CELL)),
            fixed=dict(fixed or {}),
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """L1, ..., LS: decoder layers that run with each stage's tokens."""
        return stage_widths(self.stages, self.num_layers)

    @property
    def smallest_budget(self) -> float:
        """Average retention if every stage keeps the least."""
        return (self.stages[0] + FLOOR * sum(self.widths)) / self.num_layers

    @property
    def names(self) -> tuple[str, ...]:
        """What each coordinate of the cube stands for."""
        splits = (f"split_{stage}" for stage in range(1, len(self.stages)))
        return (*splits, *(name for name in VARIABLES if name not in self.fixed))

    @property
    def dimensions(self) -> int:
        """Number of coordinates: S + 3, less the fixed variables."""
        return len(self.names)

    @property
    def _scales(self) -> dict[str, Scale]:
        """Scales of the variables that vary."""
        return {name: scale for name, scale in scales(self.max_cell).items() if name not in self.fixed}

    @property
    def _target(self) -> float:
        """k_1 L_1 + ... + k_S L_S."""
        return self.budget * self.num_layers - self.stages[0]

    def _interval(self, chosen: Sequence[float]) -> tuple[float, float]:
        """Feasible values of the next cumulative retention, given the ones before; one value for the last stage."""
        stage, widths = len(chosen), self.widths
        above = chosen[-1] if chosen else 1.0
        left = self._target - sum(k * width for k, width in zip(chosen, widths, strict=False))
        low = min(above, max(FLOOR, left / sum(widths[stage:])))
        if above - low < ROUNDING:
            return above, above  # flat retention stays flat to the last bit, and with it its counts
        return low, max(low, min(above, (left - FLOOR * sum(widths[stage + 1 :])) / widths[stage]))

    def to_strategy(self, unit: npt.ArrayLike) -> Strategy:
        """The strategy at a point of the cube.

        Args:
            unit: [S + 2], each in [0, 1].

        Raises:
            InputError: another shape, or a coordinate outside [0, 1].
        """
        point = np.asarray(unit, dtype=np.float64)
        if point.shape != (self.dimensions,) or not ((point >= 0) & (point <= 1)).all():
            raise InputError(f"a point of the search space is {self.dimensions} numbers in [0, 1], got {point}")
        splits = len(self.stages) - 1
        cumulative: list[float] = []
        for share in (*point[:splits].tolist(), 0.0):
            low, high = self._interval(cumulative)
            cumulative.append(low + share * (high - low))
        chosen = zip(self._scales.items(), point[splits:].tolist(), strict=True)
        varied = {name: scale.value(share) for (name, scale), share in chosen}
        strategy = strategy_of({**varied, **self.fixed}, Progressive.from_cumulative(self.stages, cumulative))
        return strategy.model_copy(update={"separators": self.separators})

    def impose(self, strategy: Strategy) -> Strategy:
        """The strategy with this space's fixed variables and separators.

        Raises:
            StrategyError: other components.
        """
        if self.fixed:
            strategy = strategy_of({**values_of(strategy), **self.fixed}, schedule_of(strategy))
        return strategy.model_copy(update={"separators": self.separators})

    def to_unit(self, strategy: Strategy) -> tuple[float, ...]:
        """The point of a strategy: ``to_strategy`` of it acts the same. No recycler is a cell of 1.

        Raises:
            StrategyError: not of this space: other components, stages, budget or separators, or values beyond the
                scales.
        """
        values, schedule = values_of(strategy), schedule_of(strategy)
        if schedule.stages != self.stages:
            raise StrategyError(f"the strategy's stages {schedule.stages} are not the search's {self.stages}")
        retention = schedule.average_retention(self.num_layers)
        if abs(retention - self.budget) > 1e-9:
            raise StrategyError(f"the strategy's average retention {retention} is not the budget {self.budget}")
        if schedule.cumulative[-1] < FLOOR - 1e-9:
            raise StrategyError(
                f"the last stage retains {schedule.cumulative[-1]:g} of the tokens; the search covers {FLOOR:g} to 1"
            )
        if strategy.separators != self.separators:
            raise StrategyError(
                f"the strategy has separators {strategy.separators!r}, the search {self.separators!r}: rescale it"
            )
        check_values(values)
        for name, value in self.fixed.items():
            if values[name] != value:
                raise StrategyError(f"the search has {name} fixed at {value}; the strategy has {values[name]}")
        split: list[float] = []
        for stage in range(len(self.stages) - 1):
            low, high = self._interval(schedule.cumulative[:stage])
            share = (schedule.cumulative[stage] - low) / (high - low) if high - low > ROUNDING else 0.0
            split.append(min(max(share, 0.0), 1.0))
        return (*split, *(scale.unit(values[name]) for name, scale in self._scales.items()))

    def rescale(self, strategy: Strategy) -> Strategy:
        """The strategy with its stage split brought to this space's stages and budget, and its separators.

        Cumulative retentions are multiplied by one common factor and clipped to what is feasible, so the shape of the
        split survives and stages may belong to a decoder of another depth.

        Raises:
            StrategyError: other components, or another number of stages.
        """
        values_of(strategy)  # other components are refused
        schedule = schedule_of(strategy)
        if len(schedule.stages) != len(self.stages):
            raise StrategyError(f"the strategy has {len(schedule.stages)} stages, the search {len(self.stages)}")
        fitted = Progressive.from_cumulative(self.stages, self.fit(schedule.cumulative))
        return strategy.model_copy(update={"schedule": fitted, "separators": self.separators, "provenance": None})

    def fit(self, shape: Sequence[float]) -> tuple[float, ...]:
        """Cumulative retentions proportional to a non-increasing ``shape`` > 0, clipped, that meet the budget."""
        weights = np.asarray(shape, dtype=np.float64)
        # What a factor retains in all is piecewise linear in it, with a bend where a stage meets a clip.
        bends = np.sort(np.concatenate([FLOOR / weights, 1.0 / weights]))
        retained = np.clip(bends[:, None] * weights, FLOOR, 1.0) @ np.asarray(self.widths)
        factor = np.interp(self._target, retained, bends)
        return tuple(np.clip(factor * weights, FLOOR, 1.0).tolist())
