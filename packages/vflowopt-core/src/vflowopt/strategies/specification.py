"""``SCORER@BUDGET[,OPTION=VALUE...]``: a hand-set strategy as one short text."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, cast, get_args

from vflowopt.components import Component, Mass, Recycler, Schedule, Scorer
from vflowopt.components.mass import LogMass
from vflowopt.components.recycle import GridRecycler
from vflowopt.components.schedule import Progressive, check_budget, default_stages
from vflowopt.components.stage_scoring import FittedScorer, StageScorer
from vflowopt.discovery.registry import component_types
from vflowopt.errors import BudgetError, InputError, StrategyError, shown
from vflowopt.plans.competitors import SEPARATORS, Separators
from vflowopt.strategies.fitting import Fitting
from vflowopt.strategies.strategy import Strategy, rescorer_types

ALIASES = {"mean-attention": "calibrated-attention"}
"""Short names of scorers with their default options."""

StrategyFor: TypeAlias = Callable[[int], Strategy]
"""Gives a strategy for a number of decoder layers; raises a BudgetError or StrategyError where there is none."""


def scorer_names() -> list[str]:
    """What may stand before the ``@``."""
    return sorted({*component_types("scorer"), *ALIASES})


def specification(method: str, budget: float | None, further: str = "") -> str:
    """``SCORER[,OPTION=VALUE...]`` at a budget, with further options that begin with a comma."""
    scorer, comma, options = method.partition(",")
    return f"{scorer}@{budget}{comma}{options}{further}"


def specified(text: str) -> StrategyFor:
    """What a specification means.

    The function that it returns raises a BudgetError or StrategyError if the stages of a method leave no room for the
    budget. It is a :class:`Fitting` if the method's schedule has to be fitted to samples.

    Raises:
        StrategyError: no such scorer, or a malformed option.
        BudgetError: a budget outside (0, 1].
    """
    name, _, rest = text.partition("@")
    kind = component_types("scorer").get(ALIASES.get(name, name))
    if kind is None:
        raise StrategyError(
            f"no scorer is called {shown(name)} in {shown(text)}; there are: {', '.join(scorer_names())}"
        )
    budget, *pairs = rest.split(",")
    options = dict(_option(text, pair) for pair in pairs)
    named, gamma, ranking = (options.pop(name, None) for name in ("recycler", "mass", "rescorer"))
    separators = _separators(text, options.pop("separators", SEPARATORS))
    recycling = {"cell": options.pop("cell")} if "cell" in options else {}
    staged = issubclass(kind, StageScorer) and not issubclass(kind, FittedScorer)  # whose stages are fitted
    stages = options.pop("stages", None) if staged or ranking else None
    try:
        with _named(text):
            retention = check_budget(float(budget))
        scorer = cast("Scorer", _build(text, kind, options))
        recycler = _recycler(text, scorer, named, recycling)
        mass = None if gamma is None else cast("Mass", _build(text, LogMass, {"gamma": gamma}))
        rescorer = None if ranking is None else _rescorer(text, scorer, ranking)
        numbers = None if stages is None else [int(stage) for stage in stages.split("/")]
    except (StrategyError, BudgetError):
        raise
    except ValueError as error:
        example = f"for example {name}@0.25"
        raise StrategyError(f"{text!r} is not SCORER@BUDGET[,OPTION=VALUE...], {example}: {error}") from error

    if isinstance(scorer, FittedScorer):
        return Fitting(scorer, retention, recycler, mass, separators)

    def for_depth(num_layers: int) -> Strategy:
        with _named(text):
            schedule: Schedule = Progressive.flat(retention)
            if isinstance(scorer, StageScorer):
                schedule = scorer.schedule(retention, num_layers, numbers)
            elif rescorer is not None:
                usual = dict.fromkeys(default_stages(num_layers))
                schedule = Progressive.geometric(retention, tuple(numbers or usual), num_layers)
            return Strategy(
                scorer=scorer,
                schedule=schedule,
                recycler=recycler,
                mass=mass,
                rescorer=rescorer,
                separators=separators,
            )

    return for_depth


def read_fitting(method: str, budget: float) -> Fitting:
    """What ``SCORER[,OPTION=VALUE...]`` means where a schedule is fitted to samples.

    Raises:
        InputError: the scorer's schedule is not fitted, or the method names a budget of its own.
        StrategyError: no such scorer, or a malformed option.
        BudgetError: a budget outside (0, 1].
    """
    name = method.partition(",")[0]
    if "@" in method:
        raise InputError(f"a method has no budget of its own: write {name.partition('@')[0]!r} and --budget")
    text = specification(method, check_budget(budget))
    fitting = specified(text)
    if not isinstance(fitting, Fitting):
        kinds = component_types("scorer").items()
        fitted = ", ".join(sorted(known for known, kind in kinds if issubclass(kind, FittedScorer)))
        raise InputError(f"{name!r} needs no samples: use it as --strategy {text}; methods that are fitted: {fitted}")
    return fitting


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


def _rescorer(text: str, scorer: Scorer, name: str) -> StageScorer:
    """What ``rescorer=NAME`` says."""
    known = rescorer_types()
    if name not in known:
        raise StrategyError(f"no rescorer is called {name!r} in {text!r}; there are: {', '.join(sorted(known))}")
    if isinstance(scorer, StageScorer):
        raise StrategyError(
            f"{text!r}: {scorer.component_name()} ranks inside the decoder by itself; leave rescorer= out"
        )
    return cast("StageScorer", _build(text, known[name], {}))


def _separators(text: str, value: str) -> Separators:
    """What ``separators=`` says."""
    known = get_args(Separators)
    if value not in known:
        raise StrategyError(f"{text!r}: separators is one of {', '.join(known)}, not {value!r}")
    return cast("Separators", value)


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
