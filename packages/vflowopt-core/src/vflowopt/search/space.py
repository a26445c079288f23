"""The search space: a unit cube that maps onto exactly the strategies with one average retention.

With cumulative retention k_s = R1 * ... * Rs the budget (paper Eq. 5; Algorithm 1, line 5) is linear, so the feasible
stage splits form a polytope that S - 1 numbers in [0, 1] fill: stage by stage, the lowest k_s is the one that later
stages can just keep up, the highest the one that leaves the later stages their least. Nothing is ever rejected.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from vflowopt.errors import BudgetError, InputError, StrategyError
from vflowopt.layout import TokenLayout
from vflowopt.recycle import GridRecycler
from vflowopt.schedule import Progressive, check_budget, default_stages, stage_widths
from vflowopt.scorer import CalibratedAttention
from vflowopt.strategy import Strategy

MAX_THRESHOLD = 60.0
"""Published thresholds are 28 to 39, good ones of small models 1.5 to 5."""

MAX_ENTROPY_WEIGHT = 1000.0
"""Per view the entropy term sums to 1 and the attention term to |K|. At t = 0, |K| is the number of patches (729 in a
SigLIP crop), so weights up to about that many let entropy rule; at a high t, where K is a handful, a few do."""

MAX_CELL = 20.0
"""Published cells are 12 to 17. A cell wider than every grid acts like one of the grid's side."""

ROUNDING = 1e-12
"""An interval of cumulative retentions narrower than this is a single value."""


@dataclass(frozen=True)
class LogScale:
    """[0, 1] onto [low, high], evenly in log(value + shift); 0 gives ``low`` exactly."""

    low: float
    high: float
    shift: float = 0.0

    @property
    def _span(self) -> float:
        return math.log((self.high + self.shift) / (self.low + self.shift))

    def value(self, unit: float) -> float:
        """The value at ``unit`` in [0, 1]."""
        value = self.low + (self.low + self.shift) * math.expm1(unit * self._span)
        return min(max(value, self.low), self.high)

    def unit(self, value: float) -> float:
        """Inverse of :meth:`value`; 0 if the scale is a single value."""
        if self._span == 0.0:
            return 0.0
        return min(max(math.log1p((value - self.low) / (self.low + self.shift)) / self._span, 0.0), 1.0)


@dataclass(frozen=True)
class SearchSpace:
    """All strategies of the paper's form with average retention ``budget``, as points of a unit cube.

    The S + 2 coordinates are the stage split (S - 1), threshold t, entropy weight alpha and cell a. The corner 0 is
    flat retention, plain mean attention, no entropy, no merging (a cell of 1 holds one token).

    Attributes:
        budget: average retention in (0, 1] that every strategy meets to 1e-9.
        num_layers: decoder layers L.
        stages: decoder layers before which to prune.
        floor: least cumulative retention k_S of the last stage.
        max_cell: upper end of the cell's scale, in tokens.

    Raises:
        BudgetError: no split meets the budget; names the smallest budget that one does.
        StrategyError: the stages do not fit the decoder.
    """

    budget: float
    num_layers: int
    stages: tuple[int, ...]
    floor: float = 1e-6
    max_cell: float = MAX_CELL

    def __post_init__(self) -> None:
        check_budget(self.budget)
        try:
            Progressive(stages=self.stages, retention=(1.0,) * len(self.stages))
        except ValidationError as error:
            raise StrategyError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
        if self.budget < self.smallest_budget:
            shown = math.ceil(self.smallest_budget * 1e4) / 1e4  # rounded up, so that it can be typed in
            raise BudgetError(
                f"an average retention of {self.budget} cannot be met with stages {self.stages} of {self.num_layers} "
                f"layers on these samples; the smallest feasible budget is {shown:.4f}: layers before the first stage "
                f"run unpruned, structural tokens (row separators) are always retained, and so is one token per unit"
            )

    @classmethod
    def of(
        cls, budget: float, num_layers: int, units: Iterable[TokenLayout] = (), stages: Sequence[int] | None = None
    ) -> "SearchSpace":
        """The space in which every strategy fits every one of ``units``, by default with the paper's stages.

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
            floor=max(map(_least_retention, found), default=1e-6),
            max_cell=float(min(max(side, 1), MAX_CELL)),
        )

    @property
    def widths(self) -> tuple[int, ...]:
        """L1, ..., LS: decoder layers that run with each stage's tokens."""
        return stage_widths(self.stages, self.num_layers)

    @property
    def smallest_budget(self) -> float:
        """Average retention if every stage keeps the least."""
        return (self.stages[0] + self.floor * sum(self.widths)) / self.num_layers

    @property
    def names(self) -> tuple[str, ...]:
        """What each coordinate of the cube stands for."""
        splits = (f"split_{stage}" for stage in range(1, len(self.stages)))
        return (*splits, "threshold", "entropy_weight", "cell")

    @property
    def dimensions(self) -> int:
        """Number of coordinates: S + 2."""
        return len(self.stages) + 2

    @property
    def _scales(self) -> tuple[LogScale, LogScale, LogScale]:
        return (
            LogScale(0.0, MAX_THRESHOLD, shift=1.0),
            LogScale(0.0, MAX_ENTROPY_WEIGHT, shift=1.0),
            LogScale(1.0, self.max_cell),
        )

    @property
    def _target(self) -> float:
        """k_1 L_1 + ... + k_S L_S."""
        return self.budget * self.num_layers - self.stages[0]

    def _interval(self, chosen: Sequence[float]) -> tuple[float, float]:
        """Feasible values of the next cumulative retention, given the ones before; one value for the last stage."""
        stage, widths = len(chosen), self.widths
        above = chosen[-1] if chosen else 1.0
        left = self._target - sum(k * width for k, width in zip(chosen, widths, strict=False))
        low = min(above, max(self.floor, left / sum(widths[stage:])))
        if above - low < ROUNDING:
            return above, above  # flat retention stays flat to the last bit, and with it its counts
        return low, max(low, min(above, (left - self.floor * sum(widths[stage + 1 :])) / widths[stage]))

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
        *split, threshold, entropy_weight, cell = point.tolist()
        cumulative: list[float] = []
        for share in (*split, 0.0):
            low, high = self._interval(cumulative)
            cumulative.append(low + share * (high - low))
        scales = self._scales
        return Strategy(
            scorer=CalibratedAttention(
                threshold=scales[0].value(threshold), entropy_weight=scales[1].value(entropy_weight)
            ),
            schedule=Progressive.from_cumulative(self.stages, cumulative),
            recycler=GridRecycler(cell=scales[2].value(cell)),
        )

    def to_unit(self, strategy: Strategy) -> tuple[float, ...]:
        """The point of a strategy: ``to_strategy`` of it acts the same. No recycler is a cell of 1.

        Raises:
            StrategyError: not of this space: other components, stages or budget, or values beyond the scales.
        """
        scorer, schedule, recycler = _parts(strategy)
        if schedule.stages != self.stages:
            raise StrategyError(f"the strategy's stages {schedule.stages} are not the search's {self.stages}")
        retention = schedule.average_retention(self.num_layers)
        if abs(retention - self.budget) > 1e-9:
            raise StrategyError(f"the strategy's average retention {retention} is not the budget {self.budget}")
        if schedule.cumulative[-1] < self.floor - 1e-9:
            raise StrategyError(
                f"the last stage retains {schedule.cumulative[-1]:.4f} of the tokens; these samples need at least "
                f"{self.floor:.4f}"
            )
        if scorer.threshold > MAX_THRESHOLD or scorer.entropy_weight > MAX_ENTROPY_WEIGHT:
            raise StrategyError(
                f"the search covers thresholds up to {MAX_THRESHOLD} and entropy weights up to {MAX_ENTROPY_WEIGHT}, "
                f"not {scorer.threshold} and {scorer.entropy_weight}"
            )
        split: list[float] = []
        for stage in range(len(self.stages) - 1):
            low, high = self._interval(schedule.cumulative[:stage])
            share = (schedule.cumulative[stage] - low) / (high - low) if high - low > ROUNDING else 0.0
            split.append(min(max(share, 0.0), 1.0))
        scales = self._scales
        cell = min(recycler.cell if recycler else 1.0, self.max_cell)
        return (*split, scales[0].unit(scorer.threshold), scales[1].unit(scorer.entropy_weight), scales[2].unit(cell))

    def rescale(self, strategy: Strategy) -> Strategy:
        """The strategy with its stage split brought to this space's stages and budget.

        Cumulative retentions are multiplied by one common factor and clipped to what is feasible, so the shape of the
        split survives and stages may belong to a decoder of another depth.

        Raises:
            StrategyError: other components, or another number of stages.
        """
        schedule = _parts(strategy)[1]
        if len(schedule.stages) != len(self.stages):
            raise StrategyError(f"the strategy has {len(schedule.stages)} stages, the search {len(self.stages)}")
        fitted = Progressive.from_cumulative(self.stages, self.fit(schedule.cumulative))
        return strategy.model_copy(update={"schedule": fitted, "provenance": None})

    def fit(self, shape: Sequence[float]) -> tuple[float, ...]:
        """Cumulative retentions proportional to a non-increasing ``shape`` > 0, clipped, that meet the budget."""
        weights = np.asarray(shape, dtype=np.float64)
        # What a factor retains in all is piecewise linear in it, with a bend where a stage meets a clip.
        bends = np.sort(np.concatenate([self.floor / weights, 1.0 / weights]))
        retained = np.clip(bends[:, None] * weights, self.floor, 1.0) @ np.asarray(self.widths)
        factor = np.interp(self._target, retained, bends)
        return tuple(np.clip(factor * weights, self.floor, 1.0).tolist())


def _least_retention(unit: TokenLayout) -> float:
    """The least k for which floor(k N + 1/2) leaves room for the structural tokens, and keeps a token at all."""
    least = max(int(unit.structural.sum()), 1)
    # A millionth of a token keeps the rounding of k on the right side.
    return (least - 0.5 + 1e-6) / unit.tokens


def _parts(strategy: Strategy) -> tuple[CalibratedAttention, Progressive, GridRecycler | None]:
    """The strategy's components, if they are those that the search varies."""
    scorer, schedule, recycler = strategy.scorer, strategy.schedule, strategy.recycler
    if not isinstance(scorer, CalibratedAttention) or not isinstance(schedule, Progressive):
        raise StrategyError(
            "the search varies calibrated-attention scorers and progressive schedules; the strategy has "
            f"{scorer.component_name()!r} and {schedule.component_name()!r}"
        )
    if recycler is not None and not isinstance(recycler, GridRecycler):
        raise StrategyError(f"the search varies grid recyclers; the strategy has {recycler.component_name()!r}")
    return scorer, schedule, recycler
