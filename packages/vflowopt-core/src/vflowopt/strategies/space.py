"""The search space: a unit cube that maps onto exactly the strategies with one average retention.

With cumulative retention k_s = R1 * ... * Rs the budget (paper Eq. 5; Algorithm 1, line 5) is linear, so the feasible
stage splits form a polytope that S - 1 numbers in [0, 1] fill: stage by stage, the lowest k_s is the one that later
stages can just keep up, the highest the one that leaves the later stages their least. Nothing is ever rejected.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vflowopt.components.schedule import Progressive, check_budget, default_stages, stage_widths
from vflowopt.errors import BudgetError, InputError, StrategyError
from vflowopt.layout import TokenLayout
from vflowopt.strategies.choices import NO_RESCORER, Setting, means_something
from vflowopt.strategies.rescaling import LEAST, at_budget, proportional
from vflowopt.strategies.strategy import Strategy
from vflowopt.strategies.variables import (
    MAX_CELL,
    VARIABLES,
    Choice,
    Scale,
    check_values,
    scales,
    schedule_of,
    strategy_of,
    values_of,
)

Point = tuple[float, ...]
"""A point of the unit cube."""

PAPER: Mapping[str, Setting] = {
    "scorer": "calibrated-attention", "diversity": 0.0, "mass": 0.0, "separators": "keep", "rescorer": "none",
}  # fmt: skip
"""Fixed variables that leave the paper's own space: the split, t, alpha and a."""

ROUNDING = 1e-12
"""An interval of cumulative retentions narrower than this is a single value."""


@dataclass(frozen=True)
class SearchSpace:
    """All strategies of the search that retain ``budget`` on average: points of a unit cube.

    The coordinates are the stage split (S - 1) and :data:`vflowopt.strategies.variables.VARIABLES`, less those that are
    fixed. The corner 0 is flat retention, plain mean attention, no entropy, no merging (a cell of 1 holds one token),
    no diversity, no mass, separators kept, ranked once.

    Attributes:
        budget: average retention in (0, 1] that every strategy meets to 1e-9.
        num_layers: decoder layers L.
        stages: decoder layers before which to prune.
        max_cell: upper end of the cell's scale, in tokens.
        fixed: values of variables that do not vary, by name: ``{"diversity": 0}`` has no diversity, ``{"cell": 1}``
            never merges. :data:`PAPER` leaves the paper's own space. Without stages inside the decoder nothing ranks
            anew there, nor without one before it.

    Raises:
        BudgetError: no split meets the budget; names the smallest budget that one does.
        StrategyError: the stages do not fit the decoder, or a fixed variable does not exist or is off its scale.
    """

    budget: float
    num_layers: int
    stages: tuple[int, ...]
    max_cell: float = MAX_CELL
    fixed: Mapping[str, Setting] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_values(self.fixed)
        Progressive(stages=self.stages, retention=(1.0,) * len(self.stages))
        if self.stages[0] or len(self.stages) == 1:
            why = "none is inside the decoder and after one before it"
            object.__setattr__(self, "fixed", self.fixed_without_rescorer(why))
        if self.budget < self.smallest_budget:
            shown = math.ceil(self.smallest_budget * 1e4) / 1e4  # rounded up, so that it can be typed in
            raise BudgetError(
                f"an average retention of {self.budget} cannot be met with stages {self.stages} of {self.num_layers} "
                f"layers: those before the first stage run unpruned, so the smallest feasible budget is {shown:.4f}"
            )

    def fixed_without_rescorer(self, why: str) -> dict[str, Setting]:
        """Fixed variables of the space where nothing ranks anew inside the decoder.

        Args:
            why: what is the matter with the stages.

        Raises:
            StrategyError: a rescorer is fixed.
        """
        fixed = self.fixed.get("rescorer", NO_RESCORER)
        if fixed != NO_RESCORER:
            raise StrategyError(
                f"rescorer is fixed at {fixed}, but of the stages {self.stages} {why}; choose other stages"
            )
        return {**self.fixed, "rescorer": NO_RESCORER}

    @classmethod
    def of(
        cls,
        budget: float,
        num_layers: int,
        units: Iterable[TokenLayout] = (),
        stages: Sequence[int] | None = None,
        fixed: Mapping[str, Setting] | None = None,
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
        return (self.stages[0] + LEAST * sum(self.widths)) / self.num_layers

    @property
    def names(self) -> tuple[str, ...]:
        """What each coordinate of the cube stands for."""
        splits = (f"split_{stage}" for stage in range(1, len(self.stages)))
        return (*splits, *(name for name in VARIABLES if name not in self.fixed))

    @property
    def dimensions(self) -> int:
        """Number of coordinates: S - 1, and one for every variable that is not fixed."""
        return len(self.names)

    @property
    def categories(self) -> tuple[int, ...]:
        """Of each coordinate how many names it chooses from; 1 for a number."""
        return (*(1 for _ in self.stages[1:]), *(scale.categories for scale in self._scales.values()))

    def active(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which coordinates of points [n, d] mean something to the scorer that they choose [n, d]."""
        if "scorer" in self.fixed:
            return np.broadcast_to(self._meaningful[0], points.shape)
        counts, column = len(self._meaningful), self.names.index("scorer")
        found: npt.NDArray[np.bool_] = self._meaningful[
            np.minimum((points[:, column] * counts).astype(int), counts - 1)
        ]
        return found

    @cached_property
    def _meaningful(self) -> npt.NDArray[np.bool_]:
        """Which coordinates mean something to each scorer that may be chosen [scorers, d]."""
        scale = self._scales.get("scorer")
        scorers = scale.options if isinstance(scale, Choice) else (self.fixed["scorer"],)
        return np.array([[means_something(name, scorer) for name in self.names] for scorer in scorers])

    def canonical(self, point: Point) -> Point:
        """The same strategy's point: what means nothing is 0, and names lie in the middle of their parts."""
        active = self.active(np.array([point]))[0]
        shares = [share if own else 0.0 for share, own in zip(point, active.tolist(), strict=True)]
        for column, scale in enumerate(self._scales.values(), start=len(self.stages) - 1):
            if isinstance(scale, Choice):
                shares[column] = scale.unit(scale.value(shares[column]))
        return tuple(shares)

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
        low = min(above, max(LEAST, left / sum(widths[stage:])))
        if above - low < ROUNDING:
            return above, above  # flat retention stays flat to the last bit, and with it its counts
        return low, max(low, min(above, (left - LEAST * sum(widths[stage + 1 :])) / widths[stage]))

    def to_strategy(self, unit: npt.ArrayLike) -> Strategy:
        """The strategy at a point of the cube.

        Args:
            unit: [d], each in [0, 1].

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
        return strategy_of({**varied, **self.fixed}, Progressive.from_cumulative(self.stages, cumulative))

    def impose(self, strategy: Strategy) -> Strategy:
        """The strategy with this space's fixed variables.

        Raises:
            StrategyError: other components.
        """
        if not self.fixed:
            return strategy
        return strategy_of({**values_of(strategy), **self.fixed}, schedule_of(strategy))

    def to_unit(self, strategy: Strategy) -> tuple[float, ...]:
        """The point of a strategy: ``to_strategy`` of it acts the same. No recycler is a cell of 1.

        Raises:
            StrategyError: not of this space: other components, stages or budget, or values beyond the scales.
        """
        values, schedule = values_of(strategy), schedule_of(strategy)
        if schedule.stages != self.stages:
            raise StrategyError(f"the strategy's stages {schedule.stages} are not the search's {self.stages}")
        retention = schedule.average_retention(self.num_layers)
        if abs(retention - self.budget) > 1e-9:
            raise StrategyError(f"the strategy's average retention {retention} is not the budget {self.budget}")
        if schedule.cumulative[-1] < LEAST - 1e-9:
            raise StrategyError(
                f"the last stage retains {schedule.cumulative[-1]:g} of the tokens; the search covers {LEAST:g} to 1"
            )
        check_values(values)
        for name, value in self.fixed.items():
            if means_something(name, values["scorer"]) and not _is_same(values[name], value):
                raise StrategyError(f"the search has {name} fixed at {value}; the strategy has {values[name]}")
        split: list[float] = []
        for stage in range(len(self.stages) - 1):
            low, high = self._interval(schedule.cumulative[:stage])
            share = (schedule.cumulative[stage] - low) / (high - low) if high - low > ROUNDING else 0.0
            split.append(min(max(share, 0.0), 1.0))
        return (*split, *(scale.unit(values[name]) for name, scale in self._scales.items()))  # type: ignore[arg-type]

    def rescale(self, strategy: Strategy) -> Strategy:
        """The strategy with its stage split brought to this space's stages and budget.

        See :func:`vflowopt.strategies.rescaling.at_budget`; stages may be those of a decoder of another depth, and more
        or fewer.

        Raises:
            StrategyError: other components.
        """
        values_of(strategy)  # other components are refused
        return at_budget(strategy, self.budget, self.num_layers, self.stages)

    def fit(self, shape: Sequence[float]) -> tuple[float, ...]:
        """Cumulative retentions proportional to a non-increasing ``shape`` > 0, clipped, that meet the budget."""
        return proportional(shape, self.budget, self.stages, self.num_layers)


def _is_same(one: Setting, other: Setting) -> bool:
    """Whether values are equal, but for rounding where an option is 1 less the variable."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return math.isclose(one, other, rel_tol=1e-12, abs_tol=1e-12)
