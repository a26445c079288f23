"""What the searches found, in the terms of a strategy file."""

from collections.abc import Iterator

from vflowopt.ablation.table import Table
from vflowopt.components import Component
from vflowopt.figures import percent, score
from vflowopt.strategies.strategy import Strategy

FOUND = ("budget", "scorer", "seed", "recycler", "retention from layer on", "search score")
"""Columns of :func:`found`."""

MANY = 1_000_000
"""Tokens of an image so large that rounding does not show."""


def found(table: Table) -> Iterator[tuple[str, ...]]:
    """The strategies of a study's first row."""
    for row in table.rows:
        if row.method != table.study.lines[0].name:
            continue
        for result in row.able:
            strategy = Strategy.model_validate(result.strategy)
            stages = zip(strategy.schedule.boundaries, strategy.schedule.counts(MANY), strict=True)
            yield (
                percent(row.budget),
                _options(strategy.scorer),
                str(result.cell.seed),
                _options(strategy.recycler),
                ", ".join(f"{layer}: {percent(count / MANY)}" for layer, count in stages),
                "" if result.score is None else score(result.score),
            )


def _options(component: Component | None) -> str:
    """A component's name and options."""
    if component is None:
        return "none"
    options = component.model_dump(exclude={"name"})
    return " ".join([component.component_name(), *(f"{name}={_short(value)}" for name, value in options.items())])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
