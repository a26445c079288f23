"""The arguments of a search, checked before any work."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

from vflowopt.adapter import Evaluator
from vflowopt.budgets.requests import RequestBudget, Workload
from vflowopt.components.schedule import check_budget
from vflowopt.errors import InputError, StrategyError, shown
from vflowopt.strategies.space import SearchSpace
from vflowopt.strategies.strategy import Strategy
from vflowopt.strategies.variables import check_values

Item = TypeVar("Item")

Budget: TypeAlias = float | RequestBudget
"""An average retention in (0, 1], or what one request may use."""


@dataclass(frozen=True)
class Settings:
    """Arguments, checked as far as possible without a model.

    ``budget`` is the average retention; 1 as long as a budget in another unit, ``requested``, is not translated.
    """

    budget: float
    requested: RequestBudget | None
    iterations: int
    initial: int
    seed: int
    stages: tuple[int, ...] | None
    starts: tuple[Strategy, ...] | None
    fixed: Mapping[str, float]

    @classmethod
    def of(
        cls,
        budget: Budget,
        iterations: int,
        initial: int,
        seed: int,
        stages: Sequence[int] | None,
        starts: Iterable[Strategy] | None,
        fixed: Mapping[str, float] | None,
    ) -> "Settings":
        """Check and normalise.

        Raises:
            BudgetError, InputError, StrategyError: names the argument and the values it takes.
        """
        settings = cls(
            budget=1.0 if isinstance(budget, RequestBudget) else check_budget(budget),
            requested=budget if isinstance(budget, RequestBudget) else None,
            iterations=whole("iterations", iterations, least=0),
            initial=whole("initial", initial, least=1),
            seed=whole("seed", seed, least=0),
            stages=None
            if stages is None
            else tuple(whole("a stage", one, least=0) for one in _listed("stages", stages)),
            starts=None if starts is None else _listed("starts", starts),
            fixed=_numbers(fixed or {}),
        )
        check_values(settings.fixed)
        for start in settings.starts or ():
            if not isinstance(start, Strategy):
                raise StrategyError(f"starts must be strategies, got {shown(start)}")
        if settings.starts and len(settings.starts) > settings.initial:
            raise InputError(
                f"{len(settings.starts)} starting strategies do not fit into initial={settings.initial} evaluations; "
                f"raise initial to at least {len(settings.starts)}"
            )
        return settings

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
        return replace(self, budget=retention)

    def space(self, evaluator: Evaluator) -> SearchSpace:
        """The space in which every strategy fits every sample of the evaluator.

        Raises:
            InputError: no sample has a visual token.
            BudgetError, StrategyError: see :class:`SearchSpace`.
        """
        units = [unit for sample in evaluator.units for unit in sample if unit.tokens]
        if not units:
            raise InputError(
                "none of the samples has a visual token, so there is nothing to prune; add images or videos"
            )
        return SearchSpace.of(self.budget, evaluator.num_layers, units, self.stages, self.fixed)


def _listed(name: str, values: Iterable[Item]) -> tuple[Item, ...]:
    try:
        return tuple(values)
    except TypeError:
        raise InputError(f"{name} must be a sequence, got {shown(values)}") from None


def _numbers(fixed: Mapping[str, float]) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in fixed.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise StrategyError(
            f'fixed must be numbers by variable, for example {{"diversity": 0}}, got {shown(fixed)}'
        ) from None


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
