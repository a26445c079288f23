"""``SCORER@BUDGET[,OPTION=VALUE...]``: a hand-set strategy as one short text."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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

_OF_STRATEGIES = ("cell", "mass", "recycler", "rescorer", "separators")
"""Options of the other parts of a strategy."""

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
    options = _options(text, pairs)
    named, gamma, ranking = (options.pop(name, None) for name in ("recycler", "mass", "rescorer"))
    separators = _separators(text, options.pop("separators", SEPARATORS))
    recycling = {"cell": options.pop("cell")} if "cell" in options else {}
    staged = issubclass(kind, StageScorer) and not issubclass(kind, FittedScorer)  # whose stages are fitted
    stages = options.pop("stages", None) if staged or ranking else None
    share = behind_at(text, budget)
    with _named(text):
        retention = check_budget(share)
    _require_known(text, name, kind, options)
    scorer = cast("Scorer", _build(text, kind, options))
    recycler = _recycler(text, scorer, named, recycling)
    mass = None if gamma is None else cast("Mass", _build(text, LogMass, {"gamma": gamma}))
    rescorer = None if ranking is None else _rescorer(text, scorer, ranking)
    numbers = None if stages is None else _stages(text, stages)
    if rescorer is not None and numbers == [0]:
        raise StrategyError(
            f"{text!r}: {rescorer.component_name()} ranks at stages inside the decoder, of which there is none: leave "
            f"rescorer= out, or write stages=0/9, for example"
        )

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


def _rescorer(text: str, scorer: Scorer, name: str) -> StageScorer | None:
    """What ``rescorer=NAME`` says."""
    known = rescorer_types()
    if name == "none":
        return None
    if name not in known:
        raise StrategyError(f"no rescorer is called {name!r} in {text!r}; there are: {', '.join(sorted(known))}, none")
    if isinstance(scorer, StageScorer):
        raise StrategyError(
            f"{text!r}: {scorer.component_name()} ranks inside the decoder by itself; leave rescorer= out"
        )
    return cast("StageScorer", _build(text, known[name], {}))


def number_in(text: str) -> float | None:
    """The number that a text is; ``None`` if it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def behind_at(text: str, share: str) -> float:
    """The number behind the ``@`` of a text.

    Raises:
        StrategyError: it is none.
    """
    number = number_in(share)
    if number is None:
        raise StrategyError(f"{shown(text)}: after the '@' belongs a budget, for example 0.25; got {shown(share)}")
    return number


def _stages(text: str, value: str) -> list[int]:
    """What ``stages=`` says."""
    layers = value.split("/")
    if not all(layer.isascii() and layer.isdigit() for layer in layers):
        raise StrategyError(f"{text!r}: stages are decoder layers, for example stages=0/9/18, not {value!r}")
    return [int(layer) for layer in layers]


def _require_known(text: str, name: str, kind: type[Component], options: Mapping[str, str]) -> None:
    """Check that a scorer has these options, which are what no other part has taken."""
    own = [option for option in kind.model_fields if option != "name"]
    for option in options:
        if option == "stages":
            raise StrategyError(
                f"{text!r}: {name} ranks before the LLM, where its one stage is; stages= goes with scorers that rank "
                f"inside the decoder, or with rescorer="
            )
        if option not in own:
            raise StrategyError(
                f"{text!r}: {name} has no option {shown(option)}; it has: {', '.join(own) or 'none'}; beside these "
                f"there are: {', '.join(_OF_STRATEGIES)}"
            )


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


def _options(text: str, pairs: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals:
            raise StrategyError(f"{text!r}: expected OPTION=VALUE, got {pair!r}")
        if name in options:
            raise StrategyError(f"{text!r}: {name} is given twice, as {options[name]!r} and as {value!r}")
        options[name] = value
    return options
