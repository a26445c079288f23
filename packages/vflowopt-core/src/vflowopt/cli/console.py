"""Where the command line writes: results to standard output, everything else to standard error."""

import json
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)
from rich.table import Table

Item = TypeVar("Item")


def results() -> Console:
    """Standard output."""
    return Console(markup=False)  # what is printed holds texts of users, models and third parties


def notes() -> Console:
    """Standard error, for progress and remarks."""
    return Console(stderr=True, markup=False)


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(data, indent=2))  # noqa: T201


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> Table:
    """A table whose first column is a name and whose other columns are right-aligned figures."""
    drawn = Table(
        title=title, title_justify="left", caption=caption or None, caption_justify="left", title_style="bold"
    )
    for index, column in enumerate(columns):
        drawn.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    return drawn


def tracked(items: Sequence[Item], what: str, console: Console | None = None) -> Iterable[Item]:
    """Iterate with a progress bar and time left."""
    return track(items, description=what, console=console or notes(), transient=True)


def steps() -> "AbstractContextManager[Progress]":
    """A progress bar to which several tasks can be added."""
    return bars()


def bars() -> Progress:
    """The same, to be started and stopped by hand."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=notes(),
        transient=True,
    )


def percent(value: float, digits: int = 1) -> str:
    """0.25 -> 25.0 %."""
    return f"{100 * value:.{digits}f} %"


def seconds(value: float) -> str:
    """A duration with three significant digits."""
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} us"


def size(count: float) -> str:
    """Bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def tokens(counts: Sequence[float]) -> str:
    """Visual tokens per stage: 406 > 102 > 80."""
    return " > ".join(f"{count:.0f}" for count in counts)
