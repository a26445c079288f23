"""``vflowopt compare``: models x methods x budgets x seeds on the same questions."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import TaskID

from vflowopt.adapter import LoadedModel
from vflowopt.cli.console import bars, notes, print_json, results, table
from vflowopt.cli.data import Question, gather, read_jsonl
from vflowopt.cli.evaluate import is_right
from vflowopt.cli.media import FRAMES, FramesOption
from vflowopt.cli.models import Chosen, DeviceOption, DtypeOption, choose
from vflowopt.cli.strategies import read_strategy
from vflowopt.errors import InputError
from vflowopt.schedule import check_budget

if TYPE_CHECKING:
    from vflowopt.compare import Cell, Result, Row, Store

EXAMPLES = """
[b]Examples[/b]

vflowopt compare -m reference --method mean-attention --method random --method searched -b 0.5 -b 0.25 --out compared

vflowopt compare -m reference -m reference-next --method calibrated-attention,threshold=1.5,cell=3.5 -b 0.1 --out both
"""
SHOWN = ("method", "budget", "retention", "accuracy", "similarity", "prefill")
"""Columns that fit on a terminal; the files have all."""

METHOD_HELP = (
    "[b]SCORER[,OPTION=VALUE...][/b] as in --strategy but without a budget (fitted per model "
    "and budget if its method is fitted to samples), [b]searched[/b] (a search per model, "
    "budget and seed), a strategy file or [b]preset:NAME[/b]. May be repeated. [b]unpruned[/b] is always there."
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare", epilog=EXAMPLES)(compare)


def compare(
    model: Annotated[
        list[str], typer.Option("--model", "-m", help="Directory, hub id or named model. May be repeated.")
    ],
    method: Annotated[list[str], typer.Option("--method", help=METHOD_HELP)],
    budget: Annotated[
        list[float], typer.Option("--budget", "-b", help="Average retention in (0, 1]. May be repeated.")
    ],
    out: Annotated[Path, typer.Option(help="Directory to write to; the same command goes on where one stopped.")],
    seeds: Annotated[
        int, typer.Option(min=1, help="Seeds of every method to which they make a difference: 0, 1, ...")
    ] = 3,
    data: Annotated[
        Path | None,
        typer.Option(help="JSONL of image or video, question, answers; a named model brings its own test questions."),
    ] = None,
    frames: FramesOption = FRAMES,
    limit: Annotated[int, typer.Option(min=1, help="Questions at most: the first ones.")] = 200,
    search_data: Annotated[
        Path | None, typer.Option(help="JSONL of the samples that strategies are searched on and fitted to.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="How many of them to use: the first ones.")] = 30,
    initial: Annotated[int, typer.Option(min=1, help="Evaluations of a search: known good and random ones.")] = 10,
    iterations: Annotated[int, typer.Option(min=0, help="Evaluations of a search after those.")] = 30,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds of the latency, after one that warms up.")] = 5,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Do not measure latency.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer at most.")] = 16,
    low_memory: Annotated[
        bool, typer.Option("--low-memory", help="Encode images again for every cell; do not keep their features.")
    ] = False,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print every cell as JSON.")] = False,
) -> None:
    """Compare pruning methods on models at equal average retention.

    Writes compare.md, compare.csv and compare.png. Finished cells are kept: the same command resumes after any end,
    and may add models, methods, budgets and seeds.
    """
    from vflowopt.compare import SEARCHED, UNPRUNED, Effort, Store, Subject, cells_of, fill, read_method, rows_of
    from vflowopt.compare.identity import identity_of_file, identity_of_weights
    from vflowopt.search.result import installed_versions

    # Everything that can be refused without loading a model is refused first.
    budgets = sorted({check_budget(value) for value in budget}, reverse=True)
    named = [UNPRUNED, *(text for text in dict.fromkeys(method) if text != UNPRUNED)]
    read = [read_method(text, budgets, read_strategy) for text in named]
    chosen = {one.label: one for one in map(choose, dict.fromkeys(model))}
    questions = {label: _questions(one, data, limit, frames) for label, one in chosen.items()}
    sampled = {
        label: _samples(one, data, search_data, samples, frames) if any(own.needs_samples for own in read) else []
        for label, one in chosen.items()
    }
    settings: dict[str, Any] = {
        "data": identity_of_file(data), "limit": limit, "frames": frames, "max_new_tokens": max_new_tokens,
        "search_data": identity_of_file(search_data), "samples": samples, "initial": initial,
        "iterations": iterations, "rounds": 0 if no_latency else rounds, "device": device, "dtype": dtype,
        "versions": installed_versions(),
    }  # fmt: skip
    weights = {label: identity_of_weights(one.source) for label, one in chosen.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {str(out)!r}: {error}") from error
    store = Store.open(out / "cells.jsonl", settings, weights)
    for note in store.notes:
        notes().print(note, highlight=False)
    methods = {one.identity: one for one in read}
    cells = {label: list(cells_of(label, read, budgets, seeds)) for label in chosen}
    effort = Effort(max_new_tokens, 0 if no_latency else rounds, initial, iterations, keep=not low_memory)
    with Bar(cells, store) as bar:
        for label, one in chosen.items():
            load = partial(bar.paused, partial(one.load, device, dtype))
            subject = Subject(label, load, questions[label], sampled[label])
            fill(
                subject, cells[label], methods, store,
                read=read_strategy, judge=is_right, effort=effort, out=out, watch=bar,
            )  # fmt: skip
    tables = {label: rows_of(own, store.results, methods) for label, own in cells.items()}
    asked = ", ".join(f"{len(own)} for {label}" for label, own in questions.items())
    search = f" Searches: {samples} samples, {initial} + {iterations} evaluations." if SEARCHED in named else ""
    fitted = ", ".join(own.name for own in read if own.fitted)
    fit = f" Fitted to {samples} samples: {fitted}." if fitted else ""
    _report(tables, f"Questions: {asked}.{search}{fit}", out, as_json=as_json)


class Bar:
    """Progress on standard error: cells with time left, and what is being done."""

    def __init__(self, cells: dict[str, "list[Cell]"], store: "Store") -> None:
        every = [cell for own in cells.values() for cell in own]
        self._progress = bars()
        self._total, self._finished = len(every), sum(cell in store.results for cell in every)
        self._cells = self._current = TaskID(0)

    def __enter__(self) -> "Bar":
        self._progress.start()
        self._cells = self._progress.add_task("cells", total=self._total, completed=self._finished)
        self._current = self._progress.add_task("loading", total=None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

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


def _questions(chosen: Chosen, data: Path | None, limit: int, frames: int) -> list[Question]:
    questions = gather(chosen, data=data, split="test", count=limit, frames=frames)
    if not all(question.answers for question in questions):
        raise InputError(f"{str(data)!r}: every line needs answers to compare accuracy")
    return questions


def _samples(chosen: Chosen, data: Path | None, search_data: Path | None, samples: int, frames: int) -> list[Question]:
    """Samples of a search or a fit; never the questions that are reported."""
    if search_data is not None:
        return read_jsonl(search_data, frames)[:samples]
    if data is not None:
        raise InputError(
            "searched and fitted strategies need samples that are not reported on: give --search-data FILE.jsonl "
            "beside --data"
        )
    return gather(chosen, data=None, split="search", count=samples)


def _report(tables: "dict[str, list[Row]]", introduction: str, out: Path, *, as_json: bool) -> None:
    """Write the files, and print the figures."""
    from vflowopt.compare import COLUMNS, write_report
    from vflowopt.compare.report import record

    files = write_report(out, tables, introduction)
    if as_json:
        print_json([record(row, one) for rows in tables.values() for row in rows for one in row.results])
    for label, rows in tables.items():
        if not as_json:
            shown = [COLUMNS.index(name) for name in SHOWN]
            texts = ([row.texts()[index] for index in shown] for row in rows if not row.cannot)
            results().print(table(label, SHOWN, texts))
        for row in rows:
            if row.cannot:
                notes().print(f"{label}, {row.method} at {row.budget:.3g}: cannot: {row.cannot}", highlight=False)
    notes().print(", ".join(map(str, files.values())), highlight=False, soft_wrap=True)
