"""The arguments of a search, checked before any work."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from vflowopt.adapter import Evaluator, RescoringEvaluator
from vflowopt.budgets.requests import RequestBudget, Workload
from vflowopt.components.schedule import check_budget
from vflowopt.errors import BudgetError, InputError, StrategyError, shown
from vflowopt.strategies.choices import Setting
from vflowopt.strategies.front import StrategyFront
from vflowopt.strategies.space import SearchSpace
from vflowopt.strategies.strategy import Strategy
from vflowopt.strategies.variables import check_values

Item = TypeVar("Item")

Budget: TypeAlias = float | RequestBudget | Sequence[float]
"""An average retention in (0, 1], several of them, or what one request may use."""

Known: TypeAlias = Strategy | StrategyFront
"""What a search may begin with."""

ONE, SEVERAL = (10, 50), (24, 56)
"""Evaluations before and after the model of the surface is used, for one budget and, at all together, for several: six
known good strategies at each of four. With the races that is less than one and a half times as much."""

PLATEAU = 0.01
"""A search ends where 1 - score is expected to fall by less than this part of it."""


@dataclass(frozen=True)
class Settings:
    """Arguments, checked as far as possible without a model.

    ``budgets`` are average retentions, falling; 1 as long as a budget in another unit, ``requested``, is not
    translated.
    """

    budgets: tuple[float, ...]
    requested: RequestBudget | None
    iterations: int
    initial: int
    seed: int
    stages: tuple[int, ...] | None
    starts: tuple[Known, ...] | None
    fixed: Mapping[str, Setting]
    fresh: int | None = None
    plateau: float = PLATEAU

    @classmethod
    def of(
        cls,
        budget: Budget,
        iterations: int | None,
        initial: int | None,
        seed: int,
        stages: Sequence[int] | None,
        starts: Iterable[Known] | None,
        fixed: Mapping[str, Setting] | None,
        fresh: int | None = None,
        plateau: float = PLATEAU,
    ) -> "Settings":
        """Check and normalise.

        Raises:
            BudgetError, InputError, StrategyError: names the argument and the values it takes.
        """
        budgets = (1.0,) if isinstance(budget, RequestBudget) else _budgets(budget)
        before, after = ONE if len(budgets) == 1 else SEVERAL
        settings = cls(
            budgets=budgets,
            requested=budget if isinstance(budget, RequestBudget) else None,
            iterations=whole("iterations", after if iterations is None else iterations, least=0),
            initial=whole("initial", before if initial is None else initial, least=1),
            seed=whole("seed", seed, least=0),
            stages=None
            if stages is None
            else tuple(whole("a stage", one, least=0) for one in _listed("stages", stages)),
            starts=None if starts is None else _listed("starts", starts),
            fixed=_settings(fixed or {}),
            fresh=None if fresh is None else whole("fresh", fresh, least=0),
            plateau=_share("plateau", plateau),
        )
        check_values(settings.fixed)
        for start in settings.starts or ():
            if not isinstance(start, Strategy | StrategyFront):
                raise StrategyError(f"starts must be strategies or fronts of them, got {shown(start)}")
        needed = len(settings.starts or ()) * len(budgets)
        if needed > settings.initial:
            several = f" at {len(budgets)} budgets" if len(budgets) > 1 else ""
            raise InputError(
                f"{needed // len(budgets)} starting strategies{several} do not fit into initial={settings.initial} "
                f"evaluations; raise initial to at least {needed}"
            )
        return settings

    @property
    def budget(self) -> float:
        """The largest one."""
        return self.budgets[0]

    @property
    def total(self) -> int:
        """Evaluations in all."""
        return self.initial + self.iterations

    def translated(self, evaluator: Evaluator) -> "Settings":
        """The same with the average retention that the requested budget leaves on the evaluator's samples.

        Raises:
            BudgetError: none does.
            InputError: no sample has a visual token.
            UnsupportedOperationError: the evaluator does not say how long its samples are.
        """
        if self.requested is None:
            return self
        retention = self.requested.retention(Workload.of(evaluator), self.space(evaluator))
        return replace(self, budgets=(retention,))

    def space(self, evaluator: Evaluator) -> SearchSpace:
        """The space of the largest budget, with cells up to the widest grid of the samples.

        Raises:
            InputError: no sample has a visual token.
            BudgetError, StrategyError: see :class:`SearchSpace`.
        """
        units = [unit for sample in evaluator.units for unit in sample if unit.tokens]
        if not units:
            raise InputError(
                "none of the samples has a visual token, so there is nothing to prune; add images or videos"
            )
        smallest = SearchSpace.of(self.budgets[-1], evaluator.num_layers, units, self.stages, self.fixed)
        fixed = smallest.fixed
        if not (isinstance(evaluator, RescoringEvaluator) and evaluator.can_rescore(smallest.stages)):
            fixed = smallest.fixed_without_rescorer("one follows a layer whose attention the evaluator cannot look at")
        return replace(smallest, budget=self.budget, fixed=fixed)


def _listed(name: str, values: Iterable[Item]) -> tuple[Item, ...]:
    try:
        return tuple(values)
    except TypeError:
        raise InputError(f"{name} must be a sequence, got {shown(values)}") from None


def _budgets(budget: Any) -> tuple[float, ...]:
    several = isinstance(budget, Iterable) and not isinstance(budget, str)
    if not several:
        return (check_budget(budget),)
    budgets = tuple(sorted(map(check_budget, budget), reverse=True))
    if not budgets or len(set(budgets)) < len(budgets):
        raise BudgetError(f"several budgets are one or more different average retentions, got {shown(budgets)}")
    return budgets


def _settings(fixed: Mapping[str, Setting]) -> dict[str, Setting]:
    try:
        return {name: value if isinstance(value, str) else float(value) for name, value in fixed.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise StrategyError(
            f'fixed must be values by variable, for example {{"diversity": 0}}, got {shown(fixed)}'
        ) from None


def _share(name: str, value: float) -> float:
    try:
        share = float(value)
    except (TypeError, ValueError, OverflowError):
        share = -1.0
    if not 0 <= share <= 1:
        raise InputError(f"{name} must be a number in [0, 1], 0 for never, got {shown(value)}")
    return share


def whole(name: str, value: int, *, least: int) -> int:
    """``value`` as an int of at least ``least``.

    Raises:
        InputError: it is not.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {shown(value)}")
    return number
