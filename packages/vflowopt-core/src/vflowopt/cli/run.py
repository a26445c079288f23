"""``vflowopt run``: one question, pruned beside unpruned."""

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from vflowopt.adapter import Inputs, LoadedModel, strategy_of
from vflowopt.budgets.calibration import prune_guarded
from vflowopt.cli.budgets import GuardOption, read_cost
from vflowopt.cli.console import JsonOption, print_json
from vflowopt.cli.data import ask
from vflowopt.cli.help import Command
from vflowopt.cli.media import FRAMES, FramesOption, ImagesOption, VideosOption
from vflowopt.cli.models import DeviceOption, DtypeOption, ModelOption, choose
from vflowopt.cli.strategies import STRATEGIES, StrategyOption
from vflowopt.cli.tables import print_table
from vflowopt.figures import percent, seconds, size, tokens
from vflowopt.report import PruningReport
from vflowopt.strategies.reading import read_strategy

EXAMPLES = """
[b]Examples[/b]

vflowopt run -m reference -i scene.png -p "what digit is on the red circle?" -s mean-attention@0.25

vflowopt run -m reference -v clip.gif --frames 8 -p "what digit is on the red circle?" -s mean-attention@0.25
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("run", cls=Command, epilog=EXAMPLES + STRATEGIES)(run)


@dataclass(frozen=True)
class Answer:
    """What the model said, and how long its first token and the whole answer took."""

    text: str
    first_token: float
    whole: float


def run(
    model: ModelOption,
    prompt: Annotated[str, typer.Option("--prompt", "-p", metavar="TEXT", help="The question.")],
    strategy: StrategyOption,
    image: ImagesOption = None,
    video: VideosOption = None,
    frames: FramesOption = FRAMES,
    max_new_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Length of the answer at most.")] = 64,
    guard: GuardOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Ask one question with and without pruning, and compare answers, tokens and times."""
    strategy_for, chosen, cost = read_strategy(strategy), choose(model), read_cost(guard)
    question = ask(image, video, frames, prompt)
    loaded = chosen.load(device, dtype)
    inputs = question.prepare(loaded)
    chosen_strategy = strategy_of(loaded.adapter, loaded.model, strategy_for)
    with prune_guarded(loaded.adapter, loaded.model, chosen_strategy, loaded.processor, cost) as pruning:
        loaded.generate(inputs, 1)  # refuses an infeasible budget before anything is printed
        report = pruning.report
    unpruned = _ask(loaded, inputs, max_new_tokens, nullcontext())
    block = prune_guarded(loaded.adapter, loaded.model, chosen_strategy, loaded.processor, cost)
    pruned = _ask(loaded, inputs, max_new_tokens, block)
    if as_json:
        print_json(_describe(unpruned, pruned, report))
        return
    total = sum(unit.tokens for unit in report.units)
    stages = [sum(unit.counts[stage] for unit in report.units) for stage in range(len(report.boundaries))]
    layers = ", ".join(str(boundary) for boundary in report.boundaries)
    rows = [
        ("answer", unpruned.text, pruned.text),
        ("visual tokens", str(total), tokens((total, *stages))),
        ("average retention", percent(1), percent(report.retention)),
        ("KV cache after prefill", size(report.kv_cache_bytes_unpruned), size(report.kv_cache_bytes)),
        *([("recurrent states", size(report.state_bytes), size(report.state_bytes))] if report.state_bytes else []),
        ("first token", seconds(unpruned.first_token), seconds(pruned.first_token)),
        ("whole answer", seconds(unpruned.whole), seconds(pruned.whole)),
    ]
    if report.guard is not None:
        expected = (seconds(report.guard.unpruned_seconds), seconds(report.guard.pruned_seconds))
        rows.append(("prefill, expected by the guard", *expected))
    caption = (
        f"Pruned before decoder layers {layers} of {report.num_layers}. Times: of one answer, after a warm-up, "
        "vision tower included; vflowopt bench compares speed."
    )
    if report.guard is not None and not report.guard.pays:
        caption += " The guard left this input alone."
    print_table(prompt, ("", "unpruned", "pruned"), rows, caption, prose=True)


def _ask(loaded: LoadedModel, inputs: Inputs, length: int, block: AbstractContextManager[Any]) -> Answer:
    with block:
        loaded.generate(inputs, length)  # warms up all that the measured one does: kernels, allocators and threads
        tokens_at: list[float] = []
        start = time.perf_counter()
        text = loaded.generate(inputs, length, on_token=lambda: tokens_at.append(time.perf_counter()))
        end = time.perf_counter()
    return Answer(text, min(tokens_at, default=end) - start, end - start)


def _describe(unpruned: Answer, pruned: Answer, report: PruningReport) -> dict[str, Any]:
    return {
        "unpruned": {**vars(unpruned), "kv_cache_bytes": report.kv_cache_bytes_unpruned},
        "pruned": {**vars(pruned), "kv_cache_bytes": report.kv_cache_bytes},
        "state_bytes": report.state_bytes,
        "retention": report.retention,
        "layers": report.num_layers,
        "boundaries": list(report.boundaries),
        "guard": None if report.guard is None else {**asdict(report.guard), "pruned": report.guard.pays},
        "units": [{"tokens": unit.tokens, "counts": list(unit.counts)} for unit in report.units],
    }
