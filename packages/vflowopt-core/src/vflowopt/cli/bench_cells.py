"""What tables of ``vflowopt bench`` are made of."""

from dataclasses import dataclass

from vflowopt.benchmark.timing import Spread
from vflowopt.figures import ratio, seconds

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column is a name."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


def duration(spread: Spread) -> str:
    """Median and quartiles of durations."""
    low, high = seconds(spread.low), seconds(spread.high)
    if low.split()[-1] == high.split()[-1]:  # say the unit once
        low = low.split()[0]
    return f"{seconds(spread.median)} ({low} - {high})"


def gain(spread: Spread | None) -> str:
    """Median and quartiles of ratios."""
    return NOT_MEASURED if spread is None else f"{ratio(spread.median)} ({ratio(spread.low)} - {ratio(spread.high)})"
