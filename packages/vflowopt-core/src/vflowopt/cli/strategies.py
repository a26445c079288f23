"""``--strategy``: a file, a published preset, or a short specification of a hand-set strategy."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from vflowopt.components import Component
from vflowopt.errors import StrategyError
from vflowopt.plugins import component_types
from vflowopt.recycle import GridRecycler
from vflowopt.schedule import Progressive, check_budget
from vflowopt.strategy import Strategy

ALIASES = {"mean-attention": "calibrated-attention"}
"""Short names of scorers with their default options."""

HELP = (
    "A strategy file, [b]preset:NAME[/b] (a published one), or [b]SCORER@BUDGET[,OPTION=VALUE...][/b], which prunes "
    "once, before the LLM: random@0.25,seed=1; mean-attention@0.25; calibrated-attention@0.1,threshold=1.5,cell=3.5"
)
StrategyOption = Annotated[str, typer.Option("--strategy", "-s", help=HELP)]
StrategiesOption = Annotated[list[str], typer.Option("--strategy", "-s", help=HELP + ". May be repeated.")]


def read_strategy(text: str) -> Strategy:
    """The strategy that a ``--strategy`` argument means.

    Raises:
        StrategyError: no such file, preset or scorer, or a malformed option.
        BudgetError: a budget outside (0, 1].
    """
    if text.startswith("preset:"):
        return Strategy.preset(text.removeprefix("preset:"))
    name, at, rest = text.partition("@")
    if not at or Path(text).exists():
        return Strategy.load(text)
    return _from_specification(text, name, rest)


def _from_specification(text: str, name: str, rest: str) -> Strategy:
    scorers = component_types("scorer")
    scorer = scorers.get(ALIASES.get(name, name))
    if scorer is None:
        known = ", ".join(sorted({*scorers, *ALIASES}))
        raise StrategyError(f"no scorer is called {name!r} in {text!r}; there are: {known}")
    budget, *pairs = rest.split(",")
    options = dict(_option(text, pair) for pair in pairs)
    cell = options.pop("cell", None)
    try:
        retention = check_budget(float(budget))
        strategy = Strategy(
            scorer=_build(scorer, options),
            schedule=Progressive.flat(retention),
            recycler=None if cell is None else GridRecycler(cell=float(cell)),
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "strategy"
        raise StrategyError(f"{text!r}: {where}: {first['msg']}") from error
    except ValueError as error:
        if isinstance(error, StrategyError) or "budget" in str(error):
            raise
        raise StrategyError(f"{text!r} is not SCORER@BUDGET[,OPTION=VALUE...]: {error}") from error
    return strategy


def _build(scorer: type[Component], options: dict[str, str]) -> Component:
    # Option values are text; pydantic turns them into numbers.
    return scorer.model_validate(options)


def _option(text: str, pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals:
        raise StrategyError(f"{text!r}: expected OPTION=VALUE, got {pair!r}")
    return name.strip(), value.strip()
