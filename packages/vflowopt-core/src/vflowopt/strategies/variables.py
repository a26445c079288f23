"""What a search varies besides the split of the budget: a strategy's scorers, recycler, mass and separators."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, get_args

from vflowopt.components.mass import LogMass
from vflowopt.components.recycle import GridRecycler
from vflowopt.components.schedule import Progressive
from vflowopt.errors import StrategyError, shown
from vflowopt.plans.competitors import Separators
from vflowopt.strategies.choices import NO_RESCORER, RESCORERS, SCORERS, Setting
from vflowopt.strategies.strategy import Strategy

SEPARATOR_CHOICES: tuple[str, ...] = get_args(Separators)
"""What may become of separators."""

MAX_THRESHOLD = 60.0
"""Published thresholds are 28 to 39, good ones of small models 1.5 to 5."""

MAX_ENTROPY_WEIGHT = 1000.0
"""Per view the entropy term sums to 1 and the attention term to |K|. At t = 0, |K| is the number of patches (729 in a
SigLIP crop), so weights up to about that many let entropy rule; at a high t, where K is a handful, a few do."""

MAX_CELL = 20.0
"""Published cells are 12 to 17. A cell wider than every grid acts like one of the grid's side."""


@dataclass(frozen=True)
class LogScale:
    """[0, 1] onto [low, high], evenly in log(value + shift); 0 gives ``low`` exactly."""

    low: float
    high: float
    shift: float = 0.0
    categories: ClassVar[int] = 1

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
class LinearScale:
    """[0, 1] onto [0, high], evenly."""

    high: float
    low: float = 0.0
    categories: ClassVar[int] = 1

    def value(self, unit: float) -> float:
        """The value at ``unit`` in [0, 1]."""
        return unit * self.high

    def unit(self, value: float) -> float:
        """Inverse of :meth:`value`."""
        return min(max(value / self.high, 0.0), 1.0)


@dataclass(frozen=True)
class Choice:
    """[0, 1], cut in equal parts, onto names; 0 gives the first."""

    options: tuple[str, ...]

    @property
    def categories(self) -> int:
        """How many names there are."""
        return len(self.options)

    def value(self, unit: float) -> str:
        """The name at ``unit`` in [0, 1]."""
        return self.options[min(int(unit * self.categories), self.categories - 1)]

    def unit(self, value: str) -> float:
        """The middle of a name's part."""
        return (self.options.index(value) + 0.5) / self.categories


Scale: TypeAlias = LogScale | LinearScale | Choice

VARIABLES = ("threshold", "entropy_weight", "cell", "diversity", "mass", "separators", "rescorer", "scorer")
"""Names, in the order of a point's coordinates."""


def scales(max_cell: float = MAX_CELL) -> dict[str, Scale]:
    """Scale of every variable."""
    ranges = (
        LogScale(0.0, MAX_THRESHOLD, shift=1.0),
        LogScale(0.0, MAX_ENTROPY_WEIGHT, shift=1.0),
        LogScale(1.0, max_cell),
        LinearScale(1.0),
        LinearScale(1.0),
        Choice(SEPARATOR_CHOICES),
        Choice(tuple(RESCORERS)),
        Choice(tuple(SCORERS)),
    )
    return dict(zip(VARIABLES, ranges, strict=True))


def check_values(values: Mapping[str, Setting]) -> None:
    """Check that variables exist and that their values are on their scales; a cell may be as wide as it likes.

    Raises:
        StrategyError: names the variable, its value and what it takes.
    """
    for name, value in values.items():
        scale = scales().get(name)
        if scale is None:
            raise StrategyError(f"the search varies {', '.join(VARIABLES)}; there is no {shown(name)} to fix")
        if isinstance(scale, Choice):
            if value not in scale.options:
                raise StrategyError(f"the search covers {name} {', '.join(scale.options)}, not {shown(value)}")
            continue
        high = math.inf if name == "cell" else scale.high
        if isinstance(value, str) or not scale.low <= value <= high:
            raise StrategyError(
                f"the search covers {name} from {scale.low:g} to {scale.high:g}, not "
                f"{shown(value) if isinstance(value, str) else format(value, 'g')}"
            )


def read_fixed(texts: Iterable[str]) -> dict[str, Setting]:
    """Variables by name, from ``NAME=VALUE``.

    Raises:
        StrategyError: a text is something else, there is no such variable, or its value is off its scale.
    """
    fixed: dict[str, Setting] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if isinstance(scales().get(name), Choice):
            fixed[name] = value
            continue
        try:
            fixed[name] = float(value)
        except ValueError:
            raise StrategyError(
                f"a variable that is not to vary is NAME=VALUE, for example diversity=0 or separators=drop, not "
                f"{text!r}"
            ) from None
    check_values(fixed)
    return fixed


def values_of(strategy: Strategy) -> dict[str, Setting]:
    """A strategy's variables; no recycler is a cell of 1, no mass a strength of 0, what means nothing 0.

    Raises:
        StrategyError: other components than those that the search varies.
    """
    scorer, recycler, mass = strategy.scorer, strategy.recycler, strategy.mass
    if scorer.component_name() not in SCORERS or not isinstance(strategy.schedule, Progressive):
        raise StrategyError(
            f"the search varies the scorers {', '.join(SCORERS)} and progressive schedules; the strategy has "
            f"{scorer.component_name()!r} and {strategy.schedule.component_name()!r}"
        )
    if recycler is not None and not isinstance(recycler, GridRecycler):
        raise StrategyError(f"the search varies grid recyclers; the strategy has {recycler.component_name()!r}")
    if mass is not None and not (isinstance(mass, LogMass) and not mass.weighted):
        raise StrategyError(f"the search varies log-mass that is not weighted; the strategy has {mass}")
    rescorer = NO_RESCORER if strategy.rescorer is None else strategy.rescorer.component_name()
    if strategy.rescorer != RESCORERS.get(rescorer):
        raise StrategyError(f"the search varies the rescorers {', '.join(RESCORERS)}; the strategy has {rescorer!r}")
    found: dict[str, Setting] = {
        "threshold": 0.0,
        "entropy_weight": 0.0,
        "cell": recycler.cell if recycler else 1.0,
        "diversity": 0.0,
        "mass": mass.gamma if mass else 0.0,
        "separators": strategy.separators,
        "rescorer": rescorer,
        "scorer": scorer.component_name(),
    }
    return found | SCORERS[scorer.component_name()].values(scorer)


def schedule_of(strategy: Strategy) -> Progressive:
    """The schedule of a strategy that :func:`values_of` has taken."""
    assert isinstance(strategy.schedule, Progressive)
    return strategy.schedule


def strategy_of(values: Mapping[str, Setting], schedule: Progressive) -> Strategy:
    """Inverse of :func:`values_of`."""
    return Strategy.model_validate(
        {
            "scorer": SCORERS[str(values["scorer"])].scorer(values),
            "schedule": schedule,
            "recycler": GridRecycler.model_validate({"cell": values["cell"]}),
            "mass": LogMass.model_validate({"gamma": values["mass"]}) if values["mass"] else None,
            "rescorer": RESCORERS[str(values["rescorer"])],
            "separators": values["separators"],
        }
    )
