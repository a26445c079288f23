"""``vflowopt ablate``: what the method's parts, its objective, its samples and its search are worth."""

from functools import partial
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
from vflowopt.cli.data import Question, read_jsonl
from vflowopt.cli.evaluate import is_right
from vflowopt.cli.help import Command
from vflowopt.cli.media import FRAMES, FramesOption
from vflowopt.cli.models import Chosen, DeviceOption, DtypeOption, choose
from vflowopt.cli.outputs import ForceOption
from vflowopt.cli.sample_sets import file_sets, own_sets
from vflowopt.cli.search_options import FixOption, InitialOption, IterationsOption
from vflowopt.cli.tables import print_table
from vflowopt.errors import InputError
from vflowopt.files.output import claim_folder, make_folder

if TYPE_CHECKING:
    from vflowopt.ablation import Plan, Table

EXAMPLES = """
[b]Examples[/b]

vflowopt ablate -m reference -b 0.25 --study components --study search --out ablated

vflowopt ablate -m llava-hf/llava-onevision-qwen2-7b-ov-hf -b 0.25 --data test.jsonl --search-data search.jsonl --out ov
"""
SHOWN = (1, 0, 2, 5, 6)
"""What is shown; the files have all."""

STUDY_HELP = (
    "[b]components[/b] (paper Tables 6 and 7), [b]objective[/b] (Table 9), [b]samples[/b] (sample sets, Table 8), "
    "[b]effort[/b] (numbers of samples and evaluations, Figure 4), [b]search[/b] (Table 10), [b]transfer[/b] (between "
    "models). May be repeated; all by default."
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ablate", cls=Command, epilog=EXAMPLES)(ablate)


def ablate(
    model: ModelsOption,
    budget: BudgetsOption,
    out: OutOption,
    study: Annotated[list[str] | None, typer.Option("--study", help=STUDY_HELP)] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Seeds of every search: 0, 1, ...")] = 3,
    data: DataOption = None,
    frames: FramesOption = FRAMES,
    limit: LimitOption = 200,
    search_data: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="JSONL of the samples to search on. May be repeated: each file is a sample set."
        ),
    ] = None,
    sets: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Sample sets: seeds of a named model, disjoint parts of one --search-data."
        ),
    ] = 3,
    samples: Annotated[
        int, typer.Option(min=1, metavar="N", help="Samples of a search: the first ones of a set.")
    ] = 30,
    initial: InitialOption = 10,
    iterations: IterationsOption = 50,
    fix: FixOption = None,
    sample_count: Annotated[
        list[int] | None,
        typer.Option(
            min=1, metavar="N", help="Numbers of samples for the study effort. May be repeated; 5, 10, 20, 30, 60."
        ),
    ] = None,
    evaluation_count: Annotated[
        list[int] | None,
        typer.Option(min=1, metavar="N", help="Numbers of evaluations for it, initial ones included; 10, 20, 40, 60."),
    ] = None,
    max_new_tokens: LengthOption = 16,
    low_memory: LowMemoryOption = False,
    force: ForceOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: CellsAsJsonOption = False,
) -> None:
    """Repeat the paper's ablations on models of your own: search variants and answer held-out questions with each.

    Writes ablate.md, ablate.csv and a picture per study. Finished searches and cells are kept: the same command resumes
    after any end, and may add models, studies, budgets and seeds.
    """
    from vflowopt.ablation import MAIN_SET, Ablation, Plan, run, studies_of
    from vflowopt.ablation.report import claim_report
    from vflowopt.ablation.studies import EVALUATION_COUNTS, SAMPLE_COUNTS
    from vflowopt.compare import Effort, Subject
    from vflowopt.compare.identity import identity_of_file
    from vflowopt.search.result import installed_versions
    from vflowopt.strategies.variables import read_fixed

    # Everything that can be refused without loading a model is refused first.
    budgets, fixed = falling(budget), read_fixed(fix or ())
    chosen = {one.label: one for one in map(choose, dict.fromkeys(model))}
    asked = _studies(study, len(chosen))
    few = [count for count in evaluation_count or () if count < initial]
    if few:
        raise InputError(f"--evaluation-count {few[0]} is less than --initial {initial}")
    evaluations = [count for count in evaluation_count or EVALUATION_COUNTS if count >= initial]
    plan = Plan(samples, initial, iterations, fixed, sorted(sample_count or SAMPLE_COUNTS), sorted(evaluations))
    questions = {label: questions_of(one, data, limit, frames) for label, one in chosen.items()}
    sampled = {
        label: _samples(one, data, search_data or [], plan, sets if "samples" in asked else 1, frames)
        for label, one in chosen.items()
    }
    settings: dict[str, Any] = {
        "data": identity_of_file(data), "limit": limit, "frames": frames, "max_new_tokens": max_new_tokens,
        "search_data": [identity_of_file(file) for file in search_data or ()], "initial": initial, "fixed": fixed,
        "device": device, "dtype": dtype, "versions": installed_versions(),
    }  # fmt: skip
    claim_report(make_folder(claim_folder(out)), asked, force=force)
    effort = Effort(max_new_tokens, rounds=0, keep=not low_memory)
    bar, ablations = Bar(), []
    with open_store(out, settings, chosen.values()) as store:
        for label, one in chosen.items():
            subject = Subject(label, partial(bar.paused, partial(one.load, device, dtype)), questions[label])
            there, others = len(sampled[label][MAIN_SET]), [other for other in chosen if other != label]
            if "effort" in asked and there < plan.most_samples:
                notes().print(
                    f"{label}: no search has more than {there} samples, as there are no more", highlight=False
                )
            studies = studies_of(asked, plan.within(there), list(sampled[label]), others)
            ablations.append(Ablation(subject, sampled[label], studies, budgets, seeds))
        cells = [cell for own in ablations for cell in own.cells]
        with bar.over(cells, store):
            tables = run(ablations, plan, store, judge=is_right, effort=effort, out=out, watch=bar)
    told = ", ".join(f"{len(own)} for {label}" for label, own in questions.items())
    search = f"{samples} samples, {initial} + {iterations} evaluations, {seeds} seeds, unless a row says otherwise"
    _report(tables, f"Questions: {told}. Searches: {search}.", out, as_json=as_json, force=force)


def _studies(given: list[str] | None, models: int) -> list[str]:
    """Names of studies in the order of the report."""
    from vflowopt.ablation import STUDIES

    unknown = [name for name in given or () if name not in STUDIES]
    if unknown:
        raise InputError(f"there is no study {unknown[0]!r}; there are: {', '.join(STUDIES)}")
    if "transfer" in (given or ()) and models < 2:
        raise InputError("the study 'transfer' is between models: give --model more than once")
    return [name for name in STUDIES if name in (given or STUDIES) and (name != "transfer" or models > 1)]


def _samples(
    chosen: Chosen, data: Path | None, files: list[Path], plan: "Plan", sets: int, frames: int
) -> dict[str, list[Question]]:
    """Sample sets by name; never the questions that are reported."""
    if files:
        read = [read_jsonl(file, frames) for file in files]
        return file_sets(read if sets > 1 else read[:1], plan.samples, sets)
    if data is None and chosen.named and chosen.named.examples:
        return own_sets(chosen.named.examples, plan.samples, plan.most_samples, sets)
    return file_sets([samples_of(chosen, data, None, plan.most_samples, frames)], plan.samples, 1)


def _report(tables: "list[Table]", introduction: str, out: Path, *, as_json: bool, force: bool) -> None:
    """Write the files, and print the figures."""
    from vflowopt.ablation import STUDIES, write_report
    from vflowopt.ablation.report import records

    files = write_report(out, tables, introduction, force=force)
    if as_json:
        print_json(records(tables))
    for one in () if as_json else tables:
        columns = [one.columns[index] for index in SHOWN]
        rows = list(zip(one.rows, one.texts(), strict=True))
        texts = ([text[index] for index in SHOWN] for row, text in rows if not row.cannot)
        print_table(f"{one.model}: {STUDIES[one.study.name][0]}", columns, texts)
        for row, (budget, name, told, *_) in rows:
            if row.cannot:
                notes().print(f"{one.model}, {name} at {budget}: {told}", highlight=False)
    notes().print(", ".join(map(str, files)), highlight=False, soft_wrap=True)
