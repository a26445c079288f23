"""``--strategy``: a file, a published preset, or a short specification of a hand-set strategy."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, cast

import typer

from vflowopt.components import Component, Recycler, Scorer
from vflowopt.components.recycle import GridRecycler
from vflowopt.components.schedule import Progressive, check_budget
from vflowopt.components.stage_scoring import FittedScorer, StageScorer
from vflowopt.errors import BudgetError, InputError, StrategyError, shown
from vflowopt.plugins import component_types
from vflowopt.search.fitting import Fitting
from vflowopt.strategies.strategy import Strategy

ALIASES = {"mean-attention": "calibrated-attention"}
"""Short names of scorers with their default options."""

HELP = "File, preset:NAME, or [b]SCORER@BUDGET[,OPTION=VALUE...][/b]: see Strategies below."
STRATEGIES = """
[b]Strategies[/b]

A strategy is a file that vflowopt optimize or fit wrote, a published one (preset:llava-onevision-7b/25), or a scorer
with its budget and options.

Most scorers prune once, before the LLM: random@0.25,seed=1; mean-attention@0.25;
calibrated-attention@0.1,threshold=1.5,cell=3.5.

Those that rank inside the decoder prune where their method does: fastv@0.25; pyramiddrop@0.4,stages=2/4/8.

recycler=NAME replaces the method's own recycler, recycler=none leaves it out. vflowopt adapters lists scorers and
recyclers.
"""
"""Ends the help of commands with a strategy."""

StrategyOption = Annotated[str, typer.Option("--strategy", "-s", help=HELP)]
StrategiesOption = Annotated[list[str], typer.Option("--strategy", "-s", help=HELP + " May be repeated.")]
FurtherStrategiesOption = Annotated[
    list[str] | None, typer.Option("--strategy", "-s", help="Further strategies. " + HELP + " May be repeated.")
]


def read_strategy(text: str) -> Callable[[int], Strategy]:
    """What a ``--strategy`` argument means: a function that gives the strategy for a number of decoder layers.

    The function raises a BudgetError or StrategyError if the stages of a method leave no room for the budget. It is a
    :class:`vflowopt.search.fitting.Fitting` if the method's schedule has to be fitted to samples.

    Raises:
        StrategyError: no such file, preset or scorer, or a malformed option.
        BudgetError: a budget outside (0, 1].
    """
    name, at, rest = text.partition("@")
    if not at or os.path.lexists(text):
        return _whatever_the_depth(Strategy.read(text))
    return _from_specification(text, name, rest)


def read_fitting(method: str, budget: float) -> Fitting:
    """What ``--method SCORER[,OPTION=VALUE...]`` means where a schedule is fitted to samples.

    Raises:
        InputError: the scorer's schedule is not fitted, or the method names a budget of its own.
        StrategyError: no such scorer, or a malformed option.
        BudgetError: a budget outside (0, 1].
    """
    name, comma, options = method.partition(",")
    if "@" in method:
        raise InputError(f"a method has no budget of its own: write {name.partition('@')[0]!r} and --budget")
    text = f"{name}@{check_budget(budget)}{comma}{options}"
    strategy_for = _from_specification(text, name, text.partition("@")[2])
    if not isinstance(strategy_for, Fitting):
        kinds = component_types("scorer").items()
        fitted = ", ".join(sorted(known for known, kind in kinds if issubclass(kind, FittedScorer)))
        raise InputError(f"{name!r} needs no samples: use it as --strategy {text}; methods that are fitted: {fitted}")
    return strategy_for


def _whatever_the_depth(strategy: Strategy) -> Callable[[int], Strategy]:
    return lambda _: strategy


def _from_specification(text: str, name: str, rest: str) -> Callable[[int], Strategy]:
    scorers = component_types("scorer")
    kind = scorers.get(ALIASES.get(name, name))
    if kind is None:
        known = ", ".join(sorted({*scorers, *ALIASES}))
        raise StrategyError(f"no scorer is called {shown(name)} in {shown(text)}; there are: {known}")
    budget, *pairs = rest.split(",")
    options = dict(_option(text, pair) for pair in pairs)
    named = options.pop("recycler", None)
    recycling = {"cell": options.pop("cell")} if "cell" in options else {}
    staged = issubclass(kind, StageScorer) and not issubclass(kind, FittedScorer)  # whose stages are fitted
    stages = options.pop("stages", None) if staged else None
    try:
        with _named(text):
            retention = check_budget(float(budget))
        scorer = cast("Scorer", _build(text, kind, options))
        recycler = _recycler(text, scorer, named, recycling)
        numbers = None if stages is None else [int(stage) for stage in stages.split("/")]
    except (StrategyError, BudgetError):
        raise
    except ValueError as error:
        example = f"for example {name}@0.25"
        raise StrategyError(f"{text!r} is not SCORER@BUDGET[,OPTION=VALUE...], {example}: {error}") from error

    if isinstance(scorer, FittedScorer):
        return Fitting(scorer, retention, recycler)

    def for_depth(num_layers: int) -> Strategy:
        with _named(text):
            if isinstance(scorer, StageScorer):
                schedule = scorer.schedule(retention, num_layers, numbers)
            else:
                schedule = Progressive.flat(retention)
            return Strategy(scorer=scorer, schedule=schedule, recycler=recycler)

    return for_depth


def _recycler(text: str, scorer: Scorer, name: str | None, options: dict[str, str]) -> Recycler | None:
    """What ``recycler=NAME`` and ``cell=`` say; without them the method's own."""
    if name is None:
        return cast("Recycler", _build(text, GridRecycler, options)) if options else scorer.usual_recycler
    known = component_types("recycler")
    if name in known:
        return cast("Recycler", _build(text, known[name], options))
    if name != "none":
        raise StrategyError(f"no recycler is called {name!r} in {text!r}; there are: {', '.join(sorted(known))}, none")
    if options:
        raise StrategyError(f"{text!r}: without a recycler there is no {', '.join(options)}")
    return None


@contextmanager
def _named(text: str) -> Iterator[None]:
    """Errors name the argument that they are about."""
    try:
        yield
    except (StrategyError, BudgetError) as error:
        raise type(error)(f"{text!r}: {error}") from error


def _build(text: str, kind: type[Component], options: dict[str, str]) -> Component:
    with _named(text):
        return kind.model_validate(options)  # option values are text; pydantic turns them into numbers


def _option(text: str, pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals:
        raise StrategyError(f"{text!r}: expected OPTION=VALUE, got {pair!r}")
    return name.strip(), value.strip()
