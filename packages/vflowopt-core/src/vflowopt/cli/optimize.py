"""``vflowopt optimize``: search a strategy for a budget."""

import os
import statistics
from contextlib import nullcontext, redirect_stderr
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vflowopt.budgets.requests import RequestBudget
from vflowopt.cli.budgets import (
    BudgetOption,
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
from vflowopt.cli.search_options import FixOption
from vflowopt.errors import OutputError
from vflowopt.figures import percent, score
from vflowopt.strategies.strategy import STRATEGY_FILE

if TYPE_CHECKING:
    from vflowopt.adapter import Evaluator
    from vflowopt.search import OptimizeResult
    from vflowopt.search.processes import Processes

EXAMPLES = """
[b]Examples[/b]

vflowopt optimize -m reference --budget 0.25 --out reference-25.json

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
    kv_cache: KVCacheOption = None,
    prefill_latency: PrefillLatencyOption = None,
    cost: CostOption = None,
    worst: WorstOption = False,
    images: SampleImagesOption = None,
    video: VideosOption = None,
    frames: FramesOption = FRAMES,
    prompt: PromptOption = None,
    data: SampleDataOption = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="How many samples to use: the first ones.")] = 30,
    iterations: Annotated[int, typer.Option(metavar="N", help="Evaluations chosen by Expected Improvement.")] = 50,
    initial: Annotated[
        int, typer.Option(metavar="N", help="Evaluations before that: known good strategies, then random ones.")
    ] = 10,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the search.")] = 0,
    fix: FixOption = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Record of every evaluation; the same command resumes it, also after a crash. By default "
            "NAME.journal.jsonl beside --out NAME.json.",
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="What to keep: last-token, first-token, mean-pooling or top-3-tokens.")
    ] = "last-token",
    force: ForceOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search the strategy that changes a model's outputs least at a given budget.

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
    fixed = read_fixed(fix or ())
    wanted = read_budget(budget, kv_cache, prefill_latency, cost, worst)
    Settings.of(wanted, iterations, initial, seed, None, None, fixed)
    claimed = claim(out, STRATEGY_FILE, force, images, video, data, cost)
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
            SearchSpace.of(wanted, loaded.adapter.num_layers(loaded.model))
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
                journal=place,
                objective=objective,
                fixed=fixed,
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
    claimed.write(result.strategy.to_json())
    for note in (*result.notes, *([str(result.cost)] if result.cost else [])):
        notes().print(note, highlight=False, soft_wrap=True)
    if as_json:
        print_json({"strategy": result.strategy.model_dump(mode="json"), "file": str(out), "score": result.best.score,
                    "retention": result.best.retention, "evaluations": len(result.history),
                    "interrupted": result.interrupted, "unsearched": result.unsearched,
                    "cost": result.cost and asdict(result.cost)})  # fmt: skip
        return
    ended = "interrupted after" if result.interrupted else "best of"
    results().print(
        f"{out}: similarity {score(result.best.score)} at {percent(result.best.retention)} average retention "
        f"({ended} {len(result.history)} evaluations, found as {result.best.origin})",
        highlight=False,
        soft_wrap=True,
    )
    if worth := _worth(result):
        results().print(worth, highlight=False, soft_wrap=True)
    if isinstance(wanted, RequestBudget):
        results().print(achieved(wanted, result, evaluator, processes.size), highlight=False, soft_wrap=True)


def _worth(result: "OptimizeResult") -> str:
    """What the similarity is worth: that of what takes no search beside it; empty if there is none."""
    best = result.best.score
    told = [
        f"plain mean attention {score(base)} (what was found loses {percent((best - base) / (1 - base))} less)"
        for base in result.unsearched["mean-attention"]
        if base < 1
    ]
    if drawn := result.unsearched["drawn"]:
        told.append(f"strategies drawn at random {score(statistics.median(drawn))} (median of {len(drawn)})")
    return f"At the same budget, on the same samples: {'; '.join(told)}." if told else ""
