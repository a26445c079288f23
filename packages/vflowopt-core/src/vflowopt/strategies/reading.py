"""What may be given as a strategy, in Python and on the command line alike."""

import os
from numbers import Real
from pathlib import Path
from typing import TypeAlias, TypeGuard, TypeVar

from vflowopt.components.schedule import check_budget
from vflowopt.errors import StrategyError, named, shown
from vflowopt.strategies.defaults import Default
from vflowopt.strategies.front import Stored, StrategyFront, read_stored, strategy_at
from vflowopt.strategies.shipped import PRESET, is_preset
from vflowopt.strategies.specification import (
    StrategyFor,
    behind_at,
    number_in,
    scorer_names,
    specification,
    specified,
)
from vflowopt.strategies.strategy import Strategy

StrategySource: TypeAlias = Stored | float
"""See :func:`read_strategy`."""

Source = TypeVar("Source")


def read_strategy(source: StrategySource, budget: float | None = None) -> StrategyFor:
    """What a strategy is given as: a function that gives it for a number of decoder layers.

    The function raises a BudgetError or StrategyError if there is no such strategy for so many layers. It is a
    :class:`vflowopt.strategies.defaults.Default` for a budget alone, of which an adapter may know more, and a
    :class:`vflowopt.strategies.fitting.Fitting` for a method whose schedule has to be fitted to samples.

    Args:
        source: one of

            - a strategy or a front of strategies, or the path of its file;
            - the name of a preset, with or without ``preset:`` before it;
            - a path or preset followed by ``@BUDGET``, which brings it to a budget or picks it from a front;
            - ``SCORER@BUDGET[,OPTION=VALUE...]``;
            - a budget, as a number or as text: the best known strategy.

            A preset's name is never taken for a file: write ``Path(...)`` or ``"./..."`` for a file of that name.
        budget: average retention in (0, 1], for a source that is not to keep its own, or has none.

    Raises:
        StrategyError: no such file, preset or scorer, a malformed option, a front or a scorer without a budget, or two
            budgets.
        BudgetError: a budget outside (0, 1].
    """
    if budget is not None:
        budget = check_budget(budget)
    if isinstance(source, str):
        return _written(source, budget)
    if _is_number(source):
        return Default(check_budget(_only(float(source), budget)))
    if not isinstance(source, Strategy | StrategyFront | Path):
        raise StrategyError(
            f"{shown(source)} is no strategy: give a budget such as 0.25, a text such as 'divprune@0.25', a Strategy, "
            f"the path of a strategy file, or the name of a preset"
        )
    return _stored(source, budget)


def _written(text: str, budget: float | None) -> StrategyFor:
    if is_preset(text) or _is_there(text):
        return _stored(text, budget)
    method, at, _ = text.partition("@")
    scorer = method.partition(",")[0]
    if scorer in scorer_names():
        if at:
            return specified(_only(text, budget))
        if budget is None:
            raise StrategyError(f"{shown(text)} is a scorer without a budget: write {scorer + '@0.25'!r}, for example")
        return specified(specification(text, budget))
    stored, at, share = text.rpartition("@")
    if at and (is_preset(stored) or _is_there(stored)):
        number = behind_at(text, share)
        _only(text, budget)
        return _stored(stored, check_budget(number))
    alone = number_in(text)
    if alone is not None:
        return Default(check_budget(_only(alone, budget)))
    # It is nothing: what was meant says so best.
    return specified(text) if at and not _names_a_file(stored) else _stored(stored or text, budget)


def _is_there(text: str) -> bool:
    """Whether there is something of that name that could hold a strategy, readable or not; directories cannot."""
    return os.path.lexists(text) and not Path(text).is_dir()


def _names_a_file(text: str) -> bool:
    """Whether a text can only be meant for a file or a preset."""
    return text.startswith(PRESET) or text.endswith(".json") or "/" in text


def _stored(source: Stored, budget: float | None) -> StrategyFor:
    held = read_stored(source)
    if budget is not None:
        return lambda num_layers: strategy_at(held, budget, num_layers)
    if isinstance(held, StrategyFront):
        which = "the front" if isinstance(source, StrategyFront) else named(source)
        raise StrategyError(
            f"{which} holds strategies for budgets from {held.budgets[-1]:.4g} to {held.budgets[0]:.4g}: say which, by "
            f"budget=, or on the command line by FILE@BUDGET"
        )
    return lambda _: held


def _only(source: Source, budget: float | None) -> Source:
    """The source, which has a budget of its own."""
    if budget is not None:
        raise StrategyError(f"{shown(source)} has a budget of its own: leave out budget={budget:g}")
    return source


def _is_number(source: object) -> TypeGuard[float]:
    return isinstance(source, Real) and not isinstance(source, bool)
