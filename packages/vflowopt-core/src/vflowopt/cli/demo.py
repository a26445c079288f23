"""``vflowopt demo``: the whole method on the reference model, from search to picture, in a few minutes."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.console import Console

from vflowopt.adapter import LoadedModel
from vflowopt.benchmark import Benchmark, BenchRow
from vflowopt.cli.console import notes, print_json, steps, tracked
from vflowopt.cli.data import Question, gather
from vflowopt.cli.evaluate import UNPRUNED, Outcome, compare, is_right
from vflowopt.cli.help import Command
from vflowopt.cli.models import choose
from vflowopt.cli.outputs import ForceOption, claim
from vflowopt.cli.tables import print_table
from vflowopt.errors import InputError
from vflowopt.figures import percent, ratio, size
from vflowopt.files.output import claim_folder, make_folder
from vflowopt.picture.png import PNG_FILE, png
from vflowopt.strategies.strategy import STRATEGY_FILE, Strategy

EXAMPLES = """
[b]Example[/b]

vflowopt demo --out vflowopt-demo
"""
BUDGETS = (0.5, 0.25, 0.1, 0.05)
DRAWN = 0.25
"""The budget whose strategy is drawn."""
COLUMNS = "budget", "accuracy", "95 % interval", "KV cache", "fewer FLOPs", "faster prefill", "faster end to end"


@dataclass(frozen=True)
class Effort:
    """How much of everything.

    Attributes:
        samples: of the search, among them those of its race.
        initial: evaluations of the search before its model is used, at all budgets together.
        iterations: evaluations after that, likewise.
        questions: held-out test questions.
        rounds: of the latency measurement.
    """

    samples: int = 45
    initial: int = 16
    iterations: int = 32
    questions: int = 200
    rounds: int = 7


QUICK = Effort(samples=18, initial=4, iterations=2, questions=12, rounds=2)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", cls=Command, epilog=EXAMPLES)(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Directory for strategies, picture and figures.")] = Path("vflowopt-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test in seconds; its figures mean little.")] = False,
    force: ForceOption = False,
    model: Annotated[str, typer.Option(hidden=True)] = "reference",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Search strategies for the reference model, and show what pruning gains and costs.

    Searches once for 50 %, 25 %, 10 % and 5 % of the visual tokens. Then answers held-out questions, times prefills and
    draws a picture. Ctrl-C during the search goes on with the best so far.
    """
    started, effort, say = time.perf_counter(), QUICK if quick else Effort(), notes()
    chosen = choose(model)
    if not (chosen.named and chosen.named.examples):
        raise InputError(f"the demo needs a named model with examples, such as reference; {model!r} is none")
    make_folder(claim_folder(out))
    files = {budget: claim(out / _file(chosen.label, budget), STRATEGY_FILE, force) for budget in BUDGETS}
    picture = claim(out / f"{chosen.label}-{100 * DRAWN:.0f}.png", PNG_FILE, force)
    loaded = chosen.load()
    say.print(
        f"[b]1/4 Search[/b] on {effort.samples} examples of {chosen.label}: one prefill per example and evaluation",
        markup=True,
    )
    strategies = search_all(loaded, gather(chosen, data=None, split="search", count=effort.samples), effort, seed)
    for budget, strategy in strategies.items():
        files[budget].write(strategy.to_json())
    say.print(f"[b]2/4 Accuracy[/b] on {effort.questions} held-out questions that the search never saw", markup=True)
    questions = gather(chosen, data=None, split="test", count=effort.questions)
    named = {percent(budget, 0): strategy for budget, strategy in strategies.items()}
    outcomes = compare(loaded, questions, named, max_new_tokens=4)
    say.print("[b]3/4 Latency[/b] of one prefill, interleaved with the unpruned model", markup=True)
    largest = max(questions, key=lambda question: question.images()[0].width * question.images()[0].height)
    measured = measure(loaded, largest, named, effort.rounds)
    say.print("[b]4/4 Picture[/b]", markup=True)
    picture.write(png(draw(loaded, questions, strategies[DRAWN])))
    figures = _figures(outcomes, measured)
    if as_json:
        print_json(figures)
    else:
        print_summary(chosen.label, outcomes, measured)
    names = ", ".join(file.path.name for file in files.values())
    say.print(f"strategies: {names}; picture: {picture.path.name}; all in {out}/", highlight=False, soft_wrap=True)
    say.print(f"took {time.perf_counter() - started:.0f} s", highlight=False)


def search_all(loaded: LoadedModel, questions: list[Question], effort: Effort, seed: int) -> dict[float, Strategy]:
    """One search for all budgets."""
    from vflowopt.search import RichProgress, search

    inputs = tracked([question.prepare(loaded) for question in questions], "encoding")
    evaluator = loaded.adapter.evaluator(loaded.model, inputs, processor=loaded.processor)
    with RichProgress(notes()) as bar:
        front = search(
            evaluator, BUDGETS, iterations=effort.iterations, initial=effort.initial, seed=seed, progress=bar,
            model_name=loaded.name,
        ).front  # fmt: skip
    return {budget: front.at(budget) for budget in BUDGETS}


def measure(loaded: LoadedModel, question: Question, strategies: dict[str, Strategy], rounds: int) -> Benchmark:
    """Prefill latency on one image."""
    with steps() as bar:
        task = bar.add_task("measuring")
        return loaded.adapter.benchmark(
            loaded.model,
            question.prepare(loaded),
            strategies,
            parts=("LM prefill", "end-to-end prefill"),
            rounds=rounds,
            processor=loaded.processor,
            on_task=lambda done, total: bar.update(task, completed=done, total=total),
        )


def draw(loaded: LoadedModel, questions: list[Question], strategy: Strategy) -> Image.Image:
    """The picture of one of the larger images whose question is answered right."""
    from vflowopt.picture import draw_plans

    by_size = sorted(questions, key=lambda question: -question.images()[0].width * question.images()[0].height)
    for question in by_size[:10]:
        with loaded.adapter.prune(loaded.model, strategy, processor=loaded.processor) as pruning:
            answer = loaded.generate(question.prepare(loaded), 4)
            plans, layers = pruning.plan, pruning.report.num_layers
        if is_right(answer, question.answers):
            break
    subtitle = (
        f"{loaded.name} answers {answer!r} with {percent(strategy.average_retention(layers), 0)} of the visual tokens"
    )
    return draw_plans(plans, question.images(), num_layers=layers, title=question.text, subtitle=subtitle)


def _file(label: str, budget: float) -> str:
    return f"{label}-{100 * budget:.0f}.json"


def _figures(outcomes: list[Outcome], measured: Benchmark) -> dict[str, Any]:
    return {
        "outcomes": [{**asdict(outcome), "accuracy": outcome.accuracy} for outcome in outcomes],
        "benchmark": asdict(measured),
    }


def print_summary(label: str, outcomes: list[Outcome], measured: Benchmark, console: Console | None = None) -> None:
    """What pruning costs and gains, a row per budget."""
    rows = [_row(outcome, bench, measured) for outcome, bench in zip(outcomes, measured.rows, strict=True)]
    unpruned = outcomes[0]
    caption = (
        f"Accuracy: on {unpruned.questions} held-out questions about images of {unpruned.tokens[0]:.0f} visual tokens, "
        f"on average.\n"
        f"The rest: for one image of {measured.unpruned.tokens[0]} visual tokens. Cache, FLOPs and prefill are the "
        f"language model's; end to end is from pixels to the first token."
    )
    print_table(f"{label}: pruned against unpruned", COLUMNS, rows, caption, console=console)


def _row(outcome: Outcome, bench: BenchRow, measured: Benchmark) -> tuple[str, ...]:
    from vflowopt.compare import wilson

    low, high = wilson(outcome.right, outcome.questions)
    gains = (
        measured.flops_ratio(bench),
        measured.speedup(bench, "LM prefill"),
        measured.speedup(bench, "end-to-end prefill"),
    )
    return (
        outcome.strategy,
        percent(outcome.accuracy),
        f"{100 * low:.1f}-{100 * high:.1f}",
        size(bench.kv_cache_bytes),
        *("-" if gain is None or outcome.strategy == UNPRUNED else ratio(gain) for gain in gains),
    )
