"""``vflowopt optimize``: search a strategy for a budget, or for several at once."""

import os
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vflowopt.budgets.requests import RequestBudget
from vflowopt.cli.budgets import (
    BudgetOption,
    BudgetsOption,
    CostOption,
    KVCacheOption,
    PrefillLatencyOption,
    WorstOption,
    achieved,
    read_budget,
)
from vflowopt.cli.console import notes, print_json, results, tracked, working
from vflowopt.cli.data import PromptOption, SampleDataOption, SampleImagesOption, gather
from vflowopt.cli.help import Command
from vflowopt.cli.media import FRAMES, FramesOption, VideosOption
from vflowopt.cli.models import DeviceOption, DtypeOption, ModelOption, choose
from vflowopt.cli.outputs import ForceOption, claim
from vflowopt.cli.search_options import FixOption, StagesOption, read_stages
from vflowopt.cli.search_results import figures, plateaued, print_front, told
from vflowopt.errors import OutputError
from vflowopt.search.settings import PLATEAU
from vflowopt.strategies.front import FRONT_FILE, read_stored
from vflowopt.strategies.strategy import STRATEGY_FILE

if TYPE_CHECKING:
    from vflowopt.adapter import Evaluator
    from vflowopt.search import OptimizeResult
    from vflowopt.search.processes import Processes

EXAMPLES = """
[b]Examples[/b]

vflowopt optimize -m reference --budget 0.25 --out reference-25.json

vflowopt optimize -m reference --budgets 0.5,0.25,0.1 --out reference-front.json

vflowopt optimize -m llava-hf/llava-onevision-qwen2-7b-ov-hf --budget 0.25 --images photos/ --out ov-25.json

vflowopt optimize -m llava-hf/llava-onevision-qwen2-7b-ov-hf --budget 0.25 --video clip.mp4 --out ov-25.json

vflowopt optimize -m reference --kv-cache 1MiB --out small-cache.json

vflowopt optimize -m reference --prefill-latency 0.1 --cost cost.json --out fast.json
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("optimize", cls=Command, epilog=EXAMPLES)(optimize)


def optimize(
    model: ModelOption,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Strategy file to write.")],
    budget: BudgetOption = None,
    budgets: BudgetsOption = None,
    kv_cache: KVCacheOption = None,
    prefill_latency: PrefillLatencyOption = None,
    cost: CostOption = None,
    worst: WorstOption = False,
    images: SampleImagesOption = None,
    video: VideosOption = None,
    frames: FramesOption = FRAMES,
    prompt: PromptOption = None,
    data: SampleDataOption = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="How many samples to use: the first ones.")] = 45,
    fresh: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="How many of them, the last ones, only the best few are evaluated on: by default a third.",
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Evaluations chosen by Expected Improvement: by default 50, of several budgets 56 in all."
        ),
    ] = None,
    initial: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Evaluations before that: known good strategies, then random ones; by default 10, of several budgets "
            "24 in all.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the search.")] = 0,
    plateau: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="End where 1 - similarity is expected to fall by less than this part; 0 never does."
        ),
    ] = PLATEAU,
    stages: StagesOption = None,
    fix: FixOption = None,
    start: Annotated[
        list[str] | None,
        typer.Option(
            "--start",
            metavar="FILE",
            help="A strategy or front to begin with, also of another budget or model, instead of the built-in ones; "
            "may be repeated.",
        ),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Record of every evaluation; the same command resumes it, also after a crash. By default "
            "NAME.journal.jsonl beside --out NAME.json.",
        ),
    ] = None,
    objective: Annotated[
        str,
        typer.Option(
            help="What to keep: last-token, first-token, mean-pooling, top-3-tokens, centred-last-token or next-token."
        ),
    ] = "last-token",
    force: ForceOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search the strategy that changes a model's outputs least at a given budget, or a front of them for several.

    Every evaluation is one prefill per sample. Ctrl-C ends the search and keeps the best strategy found so far. Under
    torchrun the processes share the samples: torchrun --nproc-per-node 4 -m vflowopt optimize ...
    """
    from vflowopt.plugins import load_adapter
    from vflowopt.search import RichProgress, SearchSpace, search
    from vflowopt.search.journal import JournalBeside, check_journal
    from vflowopt.search.processes import processes_of
    from vflowopt.search.settings import Settings
    from vflowopt.strategies.variables import read_fixed

    # Everything that can be refused without loading a model is refused first.
    fixed, starts = read_fixed(fix or ()), [read_stored(text) for text in start or ()] or None
    wanted = read_budget(budget, budgets, kv_cache, prefill_latency, cost, worst)
    settings = Settings.of(wanted, iterations, initial, seed, read_stages(stages), starts, fixed, fresh, plateau)
    kind = STRATEGY_FILE if budgets is None else FRONT_FILE
    claimed = claim(out, kind, force, images, video, data, cost, [Path(text) for text in start or ()])
    if journal is not None and os.path.realpath(journal) == os.path.realpath(out):
        raise OutputError(f"{str(out)!r} is --out and --journal; name another file for one of them")
    place = journal or JournalBeside(out)
    check_journal(place)
    chosen = choose(model)
    questions = gather(
        chosen, data=data, split="search", count=samples, images=images, videos=video, frames=frames, prompt=prompt
    )

    def encoded(processes: "Processes") -> "Evaluator":
        loaded = chosen.load(device, dtype)
        if isinstance(wanted, RequestBudget):
            wanted.check(loaded.adapter, loaded.model)
        else:
            SearchSpace.of(settings.budgets[-1], loaded.adapter.num_layers(loaded.model), stages=settings.stages)
        own = processes.own(questions)
        inputs = (question.prepare(loaded) for question in tracked(own, f"encoding {len(own)} samples"))
        return loaded.adapter.evaluator(loaded.model, inputs, objective=objective, processor=loaded.processor)

    def searched(evaluator: "Evaluator") -> "OptimizeResult":
        with RichProgress(notes()) as progress:
            return search(
                evaluator,
                wanted,
                iterations=iterations,
                initial=initial,
                seed=seed,
                stages=settings.stages,
                journal=place,
                objective=objective,
                starts=starts,
                fixed=fixed,
                fresh=fresh,
                plateau=plateau,
                progress=progress,
                model_name=chosen.label,
            )

    with working(f"importing what {chosen.label} needs"):
        adapter = load_adapter(chosen.model_type)
    with processes_of(adapter) as processes:
        if journal is None and processes.rank == 0:
            said = f"every evaluation is recorded in {JournalBeside(out).path()}; the same command resumes"
            notes().print(said, highlight=False, soft_wrap=True)
        with nullcontext() if processes.rank == 0 else redirect_stderr(StringIO()):  # one bar is enough
            evaluator = processes.evaluator(lambda: encoded(processes))
        result = processes.lead(evaluator, lambda: searched(evaluator))
    if result is None:
        return
    claimed.write(result.strategy.to_json() if budgets is None else result.front.to_json())
    cost_of, ended = [str(result.cost)] if result.cost else [], [plateaued(result)] if result.saved else []
    for note in (*result.notes, *cost_of, *ended):
        notes().print(note, highlight=False, soft_wrap=True)
    if as_json:
        print_json(figures(result, out, budgets is not None))
        return
    if budgets is not None:
        print_front(out, result)
        return
    for line in told(out, result):
        results().print(line, highlight=False, soft_wrap=True)
    if isinstance(wanted, RequestBudget):
        results().print(achieved(wanted, result, evaluator, processes.size), highlight=False, soft_wrap=True)
