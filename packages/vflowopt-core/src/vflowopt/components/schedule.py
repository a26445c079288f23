"""Progressive stage schedule (paper Algorithm 1, Eq. 5) and its exact counts."""

import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import field_validator, model_validator

from vflowopt.components.contract import Schedule
from vflowopt.errors import BudgetError, StrategyError, shown


def default_stages(num_layers: int) -> tuple[int, ...]:
    """The paper's stages for a decoder of ``num_layers`` layers: before the LLM, after a third, after two thirds.

    >>> default_stages(28), default_stages(32)
    ((0, 9, 18), (0, 10, 20))

    Raises:
        StrategyError: that is no number of layers.
    """
    if not isinstance(num_layers, int):
        raise StrategyError(f"a decoder has a whole number of layers, for example 28, not {shown(num_layers)}")
    return (0, num_layers // 3, 2 * (num_layers // 3))


def stage_widths(stages: Sequence[int], num_layers: int) -> tuple[int, ...]:
    """Number of decoder layers that run with each stage's tokens: L1, ..., LS.

    Raises:
        StrategyError: a stage starts at or beyond ``num_layers``.
    """
    if stages[-1] >= num_layers:
        raise StrategyError(
            f"stage {stages[-1]} lies beyond the last decoder layer: the model has {num_layers} layers, so stages must "
            f"be at most {num_layers - 1}; build the strategy for this model"
        )
    return tuple(end - start for start, end in itertools.pairwise((*stages, num_layers)))


def check_budget(budget: float) -> float:
    """Return ``budget`` if it is an average retention in (0, 1].

    Raises:
        BudgetError: it is not.
    """
    try:
        is_retention = 0 < float(budget) <= 1 and not isinstance(budget, str | bool)
    except (TypeError, ValueError, OverflowError):
        is_retention = False
    if not is_retention:
        raise BudgetError(f"a budget is an average retention in (0, 1], for example 0.25; got {shown(budget)}")
    return float(budget)


def check_stages(stages: Sequence[int]) -> tuple[int, ...]:
    """Return ``stages`` if they are decoder layers before which to prune.

    Raises:
        StrategyError: they are not.
    """
    if not stages or stages[0] < 0 or any(a >= b for a, b in itertools.pairwise(stages)):
        raise StrategyError(f"stages must be one or more layer numbers >= 0, strictly increasing, got {tuple(stages)}")
    return tuple(stages)


class Progressive(Schedule):
    """Prune at each of ``stages``, keeping ``retention`` of what the stage before kept.

    Attributes:
        stages: decoder layers before which to prune, strictly increasing; 0 is before the LLM.
        retention: R1, ..., RS, each in (0, 1], relative to the stage before.
    """

    name: Literal["progressive"] = "progressive"
    stages: tuple[int, ...]
    retention: tuple[float, ...]

    @field_validator("stages")
    @classmethod
    def _check_stages(cls, stages: tuple[int, ...]) -> tuple[int, ...]:
        return check_stages(stages)

    @field_validator("retention")
    @classmethod
    def _check_retention(cls, retention: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < ratio <= 1 for ratio in retention):
            raise ValueError(f"every retention ratio must lie in (0, 1], got {retention}")
        return retention

    @model_validator(mode="after")
    def _check_lengths(self) -> "Progressive":
        if len(self.stages) != len(self.retention):
            raise ValueError(f"{len(self.stages)} stages need as many retention ratios, got {len(self.retention)}")
        return self

    @classmethod
    def from_cumulative(cls, stages: Sequence[int], cumulative: Sequence[float]) -> "Progressive":
        """Build from cumulative retention k_s = R1 * ... * Rs, non-increasing, each in (0, 1]."""
        ratios = [min(1.0, b / a) for a, b in itertools.pairwise((1.0, *cumulative))]
        return cls(stages=tuple(stages), retention=tuple(ratios))

    @classmethod
    def flat(cls, budget: float, *, stage: int = 0, num_layers: int = 1) -> "Progressive":
        """One stage whose average retention is ``budget``.

        Raises:
            BudgetError: layers before ``stage`` alone use up the budget.
            StrategyError: the stage lies beyond the last layer.
        """
        (width,) = stage_widths((stage,), num_layers)
        cumulative = (check_budget(budget) * num_layers - stage) / width
        if cumulative <= 0:
            raise BudgetError(
                f"a budget of {budget} cannot be met by pruning at layer {stage} of {num_layers}: the layers before it "
                f"use {stage / num_layers:.3f} already"
            )
        return cls(stages=(stage,), retention=(cumulative,))

    @classmethod
    def geometric(cls, budget: float, stages: Sequence[int], num_layers: int) -> "Progressive":
        """The same relative retention at every stage, such that the average retention is ``budget``.

        Raises:
            BudgetError: layers before the first stage alone use up the budget.
            StrategyError: these are no stages, or one lies beyond the last layer.
        """
        widths = stage_widths(check_stages(stages), num_layers)
        target = check_budget(budget) * num_layers - stages[0]
        if target <= 0:
            raise BudgetError(
                f"a budget of {budget} cannot be met with stages {tuple(stages)} of {num_layers} layers: those before "
                f"the first stage run unpruned, so the smallest feasible budget lies above {stages[0] / num_layers:.4f}"
            )
        low, high = 0.0, 1.0
        while low < (middle := (low + high) / 2) < high:  # until no float lies between
            retained = sum(width * middle**stage for stage, width in enumerate(widths, start=1))
            low, high = (middle, high) if retained < target else (low, middle)
        return cls(stages=tuple(stages), retention=(high,) * len(stages))

    @property
    def boundaries(self) -> tuple[int, ...]:
        """See :attr:`Schedule.boundaries`."""
        return self.stages

    @property
    def cumulative(self) -> tuple[float, ...]:
        """k_s = R1 * ... * Rs, the fraction of all visual tokens after each stage."""
        return tuple(itertools.accumulate(self.retention, operator.mul))

    def counts(self, tokens: int) -> tuple[int, ...]:
        """n_s = floor(k_s * N + 1/2), at least 1: known from N alone, exact."""
        return clipped((math.floor(k * tokens + 0.5) for k in self.cumulative), tokens)

    def average_retention(self, num_layers: int) -> float:
        """Rbar = (L0 + k_1 L_1 + ... + k_S L_S) / L (Eq. 5; L0 layers before the first stage run unpruned).

        Raises:
            StrategyError: a stage lies beyond the last layer.
        """
        widths = stage_widths(self.stages, num_layers)
        weighted = sum(k * width for k, width in zip(self.cumulative, widths, strict=True))
        return (self.stages[0] + weighted) / num_layers


def clipped(counts: Iterable[int], tokens: int) -> tuple[int, ...]:
    """Counts that a unit of ``tokens`` visual tokens can meet: never below 1, and never above those before."""
    return tuple(itertools.accumulate((max(count, 1) for count in counts), min, initial=tokens))[1:]


def achieved_retention(counts: Sequence[int], tokens: int, stages: Sequence[int], num_layers: int) -> float:
    """Average retention that exact ``counts`` of a unit of ``tokens`` visual tokens amount to (Eq. 5)."""
    widths = stage_widths(stages, num_layers)
    kept = sum(count * width for count, width in zip(counts, widths, strict=True))
    return (stages[0] + kept / tokens) / num_layers if tokens else 1.0


def last_ratio(ratios: Sequence[float], budget: float, stages: Sequence[int], num_layers: int) -> float:
    """The last relative ratio RS that meets ``budget``, given R1, ..., R(S-1) (Algorithm 1, line 5).

    Raises:
        BudgetError: no ratio in (0, 1] does.
    """
    widths = stage_widths(stages, num_layers)
    cumulative = tuple(itertools.accumulate(ratios, operator.mul))
    used = stages[0] + sum(k * width for k, width in zip(cumulative, widths[:-1], strict=True))
    before = cumulative[-1] if cumulative else 1.0
    ratio = (check_budget(budget) * num_layers - used) / (before * widths[-1])
    if not 0 < ratio <= 1 + 1e-12:
        raise BudgetError(
            f"ratios {tuple(ratios)} cannot meet an average retention of {budget}: the last one would be {ratio:.4f}"
        )
    return float(min(1.0, ratio))
