"""``vflowopt compare``: models x methods x budgets x seeds on the same questions."""

from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vflowopt.cli.cells import (
    Bar,
    BudgetsOption,
    CellsAsJsonOption,
    DataOption,
    LengthOption,
    LimitOption,
    LowMemoryOption,
    ModelsOption,
    OutOption,
    falling,
    open_store,
    questions_of,
    samples_of,
)
from vflowopt.cli.console import notes, print_json
from vflowopt.cli.evaluate import is_right
from vflowopt.cli.help import Command
from vflowopt.cli.media import FRAMES, FramesOption
from vflowopt.cli.models import DeviceOption, DtypeOption, choose
from vflowopt.cli.outputs import ForceOption
from vflowopt.cli.search_options import InitialOption, IterationsOption
from vflowopt.cli.tables import print_table
from vflowopt.files.output import claim_folder, make_folder
from vflowopt.strategies.reading import read_strategy

if TYPE_CHECKING:
    from vflowopt.compare import Row
    from vflowopt.compare.methods import Method

EXAMPLES = """
[b]Examples[/b]

vflowopt compare -m reference --method mean-attention --method random --method searched -b 0.5 -b 0.25 --out compared

vflowopt compare -m reference -m reference-next --method calibrated-attention,threshold=1.5,cell=3.5 -b 0.1 --out both
"""
SHOWN = ("budget", "retention", "accuracy", "similarity", "prefill")
"""What is shown; the files have all."""

METHOD_HELP = (
    "[b]SCORER[,OPTION=VALUE...][/b] as in --strategy but without a budget (fitted per model "
    "and budget if its method is fitted to samples), [b]searched[/b] (a search per model, "
    "budget and seed), a strategy file or [b]preset:NAME[/b]. May be repeated. [b]unpruned[/b] is always there."
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compare", cls=Command, epilog=EXAMPLES)(compare)


def compare(
    model: ModelsOption,
    method: Annotated[list[str], typer.Option("--method", help=METHOD_HELP)],
    budget: BudgetsOption,
    out: OutOption,
    seeds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Seeds of every method to which they make a difference: 0, 1, ...")
    ] = 3,
    data: DataOption = None,
    frames: FramesOption = FRAMES,
    limit: LimitOption = 200,
    search_data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL of the samples that strategies are searched on and fitted to."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="How many of them to use: the first ones.")] = 30,
    initial: InitialOption = 10,
    iterations: IterationsOption = 30,
    rounds: Annotated[
        int, typer.Option(min=1, metavar="N", help="Measured rounds of the latency, after one that warms up.")
    ] = 5,
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Do not measure latency.")] = False,
    max_new_tokens: LengthOption = 16,
    low_memory: LowMemoryOption = False,
    force: ForceOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: CellsAsJsonOption = False,
) -> None:
    """Compare pruning methods on models at equal average retention.

    Writes compare.md, compare.csv and compare.png. Finished cells are kept: the same command resumes after any end,
    and may add models, methods, budgets and seeds.
    """
    from vflowopt.compare import UNPRUNED, Effort, Subject, by_method, cells_of, fill, read_method, rows_of
    from vflowopt.compare.identity import identity_of_file
    from vflowopt.compare.report import claim_report
    from vflowopt.search.result import installed_versions

    # Everything that can be refused without loading a model is refused first.
    budgets = falling(budget)
    named = [UNPRUNED, *(text for text in dict.fromkeys(method) if text != UNPRUNED)]
    read = [read_method(text, budgets, read_strategy) for text in named]
    chosen = {one.label: one for one in map(choose, dict.fromkeys(model))}
    questions = {label: questions_of(one, data, limit, frames) for label, one in chosen.items()}
    sampled = {
        label: samples_of(one, data, search_data, samples, frames) if any(own.needs_samples for own in read) else []
        for label, one in chosen.items()
    }
    settings: dict[str, Any] = {
        "data": identity_of_file(data), "limit": limit, "frames": frames, "max_new_tokens": max_new_tokens,
        "search_data": identity_of_file(search_data), "samples": samples, "initial": initial,
        "iterations": iterations, "rounds": 0 if no_latency else rounds, "device": device, "dtype": dtype,
        "versions": installed_versions(),
    }  # fmt: skip
    claim_report(make_folder(claim_folder(out)), force=force)
    names = {one.identity: one.name for one in read}
    source = by_method({one.identity: one for one in read}, read_strategy)
    cells = {label: list(cells_of(label, read, budgets, seeds)) for label in chosen}
    effort = Effort(max_new_tokens, 0 if no_latency else rounds, initial, iterations, keep=not low_memory)
    bar = Bar()
    with open_store(out, settings, chosen.values()) as store, bar.over(list(chain(*cells.values())), store):
        for label, one in chosen.items():
            load = partial(bar.paused, partial(one.load, device, dtype))
            subject = Subject(label, load, questions[label], sampled[label])
            fill(
                source, subject, cells[label], names, store, judge=is_right, effort=effort, out=out, watch=bar,
            )  # fmt: skip
    tables = {label: rows_of(own, store.results, names) for label, own in cells.items()}
    asked = ", ".join(f"{len(own)} for {label}" for label, own in questions.items())
    are_searched = any(own.searched for own in read)
    search = f" Searches: {samples} samples, {initial} + {iterations} evaluations." if are_searched else ""
    fitted = ", ".join(own.name for own in read if own.fitted)
    fit = f" Fitted to {samples} samples: {fitted}." if fitted else ""
    _report(tables, f"Questions: {asked}.{search}{fit}", out, read, as_json=as_json, force=force)


def _report(
    tables: "dict[str, list[Row]]",
    introduction: str,
    out: Path,
    read: "list[Method]",
    *,
    as_json: bool,
    force: bool,
) -> None:
    """Write the files, and print the figures."""
    from vflowopt.compare import COLUMNS, write_report
    from vflowopt.compare.report import record

    files = write_report(out, tables, introduction, force=force)
    strategies = {one.name: partial(_strategy, one) for one in read}
    caption = "Mean over seeds (lowest to highest). Prefill: share of the unpruned model's."
    if any(one.needs_samples for one in read):
        caption += f" Searched and fitted strategies: {out / 'strategies'}."
    if as_json:
        print_json([record(row, one) for rows in tables.values() for row in rows for one in row.results])
    for label, rows in tables.items():
        if not as_json:
            shown = [COLUMNS.index(name) for name in SHOWN]
            texts = (
                [strategies[row.method](row.budget), *(row.texts()[index] for index in shown)]
                for row in rows
                if not row.cannot
            )
            print_table(label, ("strategy", *SHOWN), texts, caption)
        for row in rows:
            if row.cannot:
                notes().print(f"{label}, {row.method} at {row.budget:.3g}: cannot: {row.cannot}", highlight=False)
    notes().print(", ".join(map(str, files.values())), highlight=False, soft_wrap=True)


def _strategy(method: "Method", budget: float) -> str:
    """The row's name: what --strategy takes where that means the same."""
    return method.specification(budget, None) if method.budgeted and not method.needs_samples else method.name
