"""What the commands that fill cells share: the questions, the directory, and a bar."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import TaskID

from vflowopt.adapter import LoadedModel
from vflowopt.cli.console import notes, steps
from vflowopt.cli.data import Question, gather, read_jsonl
from vflowopt.cli.models import Chosen
from vflowopt.components.schedule import check_budget
from vflowopt.errors import InputError

if TYPE_CHECKING:
    from vflowopt.compare import Cell, Result, Store

ModelsOption = Annotated[
    list[str], typer.Option("--model", "-m", help="Directory, hub id or named model. May be repeated.")
]
BudgetsOption = Annotated[
    list[float], typer.Option("--budget", "-b", metavar="SHARE", help="Average retention in (0, 1]. May be repeated.")
]
OutOption = Annotated[
    Path, typer.Option(metavar="DIR", help="Directory to write to; the same command goes on where one stopped.")
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="JSONL of image or video, question, answers; a named model brings its own test questions."
    ),
]
LimitOption = Annotated[int, typer.Option(min=1, metavar="N", help="Questions at most: the first ones.")]
LengthOption = Annotated[int, typer.Option(min=1, metavar="N", help="Length of an answer at most.")]
LowMemoryOption = Annotated[
    bool, typer.Option("--low-memory", help="Encode images again for every cell; do not keep their features.")
]
CellsAsJsonOption = Annotated[bool, typer.Option("--json", help="Print every cell as JSON.")]


def falling(budgets: Iterable[float]) -> list[float]:
    """Budgets, checked, without duplicates, the largest first.

    Raises:
        BudgetError: one is outside (0, 1].
    """
    return sorted({check_budget(value) for value in budgets}, reverse=True)


def questions_of(chosen: Chosen, data: Path | None, limit: int, frames: int) -> list[Question]:
    """What is asked in every cell.

    Raises:
        InputError: there are no questions, or one without answers.
    """
    questions = gather(chosen, data=data, split="test", count=limit, frames=frames)
    if not all(question.answers for question in questions):
        raise InputError(f"{str(data)!r}: every line needs answers to compare accuracy")
    return questions


def samples_of(
    chosen: Chosen, data: Path | None, search_data: Path | None, samples: int, frames: int
) -> list[Question]:
    """Samples of a search or a fit; never the questions that are reported.

    Raises:
        InputError: ``data`` are given, but no samples.
    """
    if search_data is not None:
        return read_jsonl(search_data, frames)[:samples]
    if data is not None:
        raise InputError(
            "searched and fitted strategies need samples that are not reported on: give --search-data FILE.jsonl "
            "beside --data"
        )
    return gather(chosen, data=None, split="search", count=samples)


def open_store(out: Path, settings: Mapping[str, Any], chosen: Iterable[Chosen]) -> "Store":
    """The finished cells of an existing directory; leave the ``with`` block to let other processes have them.

    Raises:
        JournalError: it holds something else, or another process has them.
    """
    from vflowopt.compare import Store
    from vflowopt.compare.identity import identity_of_weights

    weights = {one.label: identity_of_weights(one.source) for one in chosen}
    store = Store.open(out / "cells.jsonl", settings, weights)
    for note in store.notes:
        notes().print(note, highlight=False)
    return store


class Bar:
    """Progress on standard error: cells with time left, and what is being done."""

    def __init__(self) -> None:
        self._progress = steps()
        self._cells = self._current = TaskID(0)

    @contextmanager
    def over(self, cells: "Collection[Cell]", store: "Store") -> Iterator[None]:
        """Show the bar while cells are filled."""
        finished = sum(cell in store.results for cell in cells)
        self._cells = self._progress.add_task("cells", total=len(cells), completed=finished)
        self._current = self._progress.add_task("loading", total=None)
        with self._progress:
            yield

    def paused(self, load: Callable[[], LoadedModel]) -> LoadedModel:
        """Load a model, which draws a line of its own."""
        self._progress.stop()
        loaded = load()
        self._progress.start()
        return loaded

    def begin(self, what: str, total: int) -> None:
        """See :class:`vflowopt.compare.Watch`."""
        self._progress.reset(self._current, total=total, description=escape(what))

    def advance(self) -> None:
        """See :class:`vflowopt.compare.Watch`."""
        self._progress.advance(self._current)

    def done(self, result: "Result") -> None:  # noqa: ARG002
        """See :class:`vflowopt.compare.Watch`."""
        self._progress.advance(self._cells)
