"""Where the command line writes: results to standard output, everything else to standard error."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)
from rich.spinner import Spinner
from rich.text import Text

Item = TypeVar("Item")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def results() -> Console:
    """Standard output."""
    return Console(markup=False)  # what is printed holds texts of users, models and third parties


def notes() -> Console:
    """Standard error, for progress and remarks."""
    return Console(stderr=True, markup=False)


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(data, indent=2))  # noqa: T201


def wrapped(text: Text, width: int) -> list[Text]:
    """A text in lines up to a width, broken between words only: a longer word is left whole."""
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        breaks, used = [], 0
        for word in re.finditer(r"\s*(\S+)", line.plain):
            if used and used + cell_len(word[0]) > width:
                breaks.append(word.start(1))
                used = cell_len(word[1])
            else:
                used += cell_len(word[0])
        lines += line.divide(breaks)
    for line in lines:
        line.rstrip()
    return lines


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say what takes its time, while it does; only where somebody looks at it."""
    console = notes()
    if console.is_terminal:
        with Live(Spinner("dots", Text(what)), console=console, transient=True) as line:
            line.refresh()  # at once: what follows may be an import that leaves other threads no time
            yield
    else:
        yield


def tracked(items: Sequence[Item], what: str, console: Console | None = None) -> Iterable[Item]:
    """Iterate with a progress bar and time left."""
    console = console or notes()
    return track(items, description=what, console=console, transient=True, disable=not console.is_terminal)


def steps() -> Progress:
    """A progress bar to which several tasks can be added; drawn only where somebody looks at it."""
    console = notes()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
