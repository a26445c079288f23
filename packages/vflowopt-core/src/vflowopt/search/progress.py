"""Watching a search: the protocol, and a bar in the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vflowopt.figures import percent, score
from vflowopt.search.result import HistoryEntry


@dataclass(frozen=True)
class SearchStep:
    """State of a search after an evaluation.

    Attributes:
        entry: the evaluation.
        best: the one with the highest score so far, at the same budget.
        done: evaluations so far.
        total: evaluations that the search will make.
        seconds_left: estimate for the rest, from the median evaluation.
        budget: average retention of the evaluation.
        resumed: whether the evaluation was read from a journal.
    """

    entry: HistoryEntry
    best: HistoryEntry
    done: int
    total: int
    seconds_left: float
    budget: float
    resumed: bool


class SearchProgress(Protocol):
    """Anything that can be called with each step; called once per evaluation, also for those resumed."""

    def __call__(self, step: SearchStep) -> None:
        """Look at the step."""
        ...


class RichProgress:
    """A progress bar with time elapsed, time left, best score and budget; a context manager.

    Args:
        console: where to draw; standard error by default, so that output can be piped.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._bar = Progress(
            TextColumn("[bold]budget {task.fields[budget]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("best {task.fields[best]}"),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            console=console or Console(stderr=True),
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "RichProgress":
        self._bar.start()
        self._task = self._bar.add_task("search", total=None, budget="-", best="-", left="-")
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def __call__(self, step: SearchStep) -> None:
        """Draw the step."""
        if self._task is None:
            self.__enter__()
        assert self._task is not None  # set on entering
        minutes, seconds = divmod(round(step.seconds_left), 60)
        self._bar.update(
            self._task,
            completed=step.done,
            total=step.total,
            budget=percent(step.budget),
            best=score(step.best.score),
            left=f"{minutes // 60}:{minutes % 60:02}:{seconds:02}",
        )


@contextmanager
def watching(progress: SearchProgress | bool | None) -> Iterator[SearchProgress]:
    """The callable behind ``progress``: a bar for ``True``, nothing for ``None`` or ``False``."""
    if progress is True:
        with RichProgress() as bar:
            yield bar
    elif progress is None or progress is False:
        yield _ignore
    else:
        yield progress


def _ignore(step: SearchStep) -> None:
    """Take a step silently."""
