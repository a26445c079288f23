"""What ``--method`` means: a scorer with options, a search, a strategy file, or the unpruned model."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vflowopt.errors import InputError, StrategyError
from vflowopt.strategies.choices import Setting
from vflowopt.strategies.fitting import Fitting
from vflowopt.strategies.front import StrategyFront
from vflowopt.strategies.specification import StrategyFor, specification
from vflowopt.strategies.variables import read_fixed

UNPRUNED, SEARCHED = "unpruned", "searched"

Reader = Callable[[str], StrategyFor]
"""Reads a strategy specification, see :func:`vflowopt.strategies.reading.read_strategy`."""


@dataclass(frozen=True)
class Method:
    """One row per budget.

    Attributes:
        name: as it was given.
        identity: the name and, of a file, what is in it; results are kept by it.
        budgeted: whether it is run at every budget.
        seeded: whether seeds make a difference.
        file: whether it is one fixed strategy.
        front: whether it is a file of a front, which has a strategy for every budget.
        fitted: whether its schedule is fitted to samples.
        searched: whether it is searched for.
        fixed: variables that its search does not vary.
    """

    name: str
    identity: str
    budgeted: bool = True
    seeded: bool = False
    file: bool = False
    front: bool = False
    fitted: bool = False
    searched: bool = False
    fixed: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def needs_samples(self) -> bool:
        """Whether it needs samples that are not reported on."""
        return self.fitted or self.searched

    def specification(self, budget: float | None, seed: int | None) -> str:
        """The ``--strategy`` argument that means this method at a budget."""
        if self.file:
            return self.name
        if self.front:
            return f"{self.name}@{budget}"
        return specification(self.name, budget, "" if seed is None else f",seed={seed}")


def read_method(text: str, budgets: Sequence[float], read: Reader) -> Method:
    """What a ``--method`` argument means.

    Args:
        text: ``NAME[,OPTION=VALUE...]``, the file of a strategy or a front, ``preset:NAME``, ``"unpruned"``, or
            ``"searched"``, which may be followed by ``,VARIABLE=VALUE`` for what its search does not vary.
        budgets: at which it will be run.
        read: reads strategy specifications.

    Raises:
        StrategyError: no such file, preset or scorer, a malformed option, or no such variable.
        InputError: it names a budget of its own.
    """
    if text == UNPRUNED:
        return Method(text, text, budgeted=False)
    name, _, options = text.partition(",")
    if name == SEARCHED:
        return Method(text, text, seeded=True, searched=True, fixed=read_fixed(filter(None, options.split(","))))
    if StrategyFront.is_in(text):
        return Method(text, _identity(text, StrategyFront.load(text).to_json()), front=True)
    if text.startswith("preset:") or text.endswith(".json") or Path(text).exists():
        content = read(text)(1).to_json()  # a file's strategy does not depend on the number of layers
        return Method(text, _identity(text, content), budgeted=False, file=True)
    if "@" in text:
        scorer = text.partition("@")[0]
        raise InputError(f"a method has no budget of its own: write {scorer!r} and --budget, not {text!r}")
    method = Method(text, text)
    fitted = [isinstance(read(method.specification(budget, None)), Fitting) for budget in budgets]
    seeded = "seed=" not in text and _takes_a_seed(method, budgets[0], read)
    return Method(text, text, seeded=seeded, fitted=all(fitted))


def _identity(text: str, content: str) -> str:
    return f"{text} {hashlib.sha256(content.encode()).hexdigest()[:12]}"


def _takes_a_seed(method: Method, budget: float, read: Reader) -> bool:
    """Whether the scorer has an option ``seed``."""
    try:
        read(method.specification(budget, 0))
    except StrategyError:
        return False
    return True
