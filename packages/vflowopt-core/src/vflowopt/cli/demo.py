"""``vflowopt demo``: the whole method on the reference model, from search to picture, in a few minutes."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from vflowopt.adapter import LoadedModel
from vflowopt.benchmark import Benchmark, BenchRow
from vflowopt.cli.console import notes, percent, print_json, results, size, steps, table, tokens, tracked
from vflowopt.cli.data import Question, gather
from vflowopt.cli.evaluate import UNPRUNED, Outcome, compare, is_right, with_similarity
from vflowopt.cli.models import choose
from vflowopt.errors import InputError
from vflowopt.strategies.strategy import Strategy

EXAMPLES = """
[b]Example[/b]

vflowopt demo --out vflowopt-demo
"""
MAIN, OTHERS = 0.25, (0.5, 0.1)
"""The budget that is searched in full, and those whose search starts from its best strategies."""


@dataclass(frozen=True)
class Effort:
    """How much of everything.

    Attributes:
        samples: of the search.
        initial: evaluations of the main search before its model is used.
        iterations: evaluations after that.
        transferred: strategies of the main search that the others start from.
        refined: evaluations of the others after those.
        questions: held-out test questions.
        compared: the first ones, on which similarity is measured as well.
        rounds: of the latency measurement.
    """

    samples: int = 30
    initial: int = 10
    iterations: int = 50
    transferred: int = 4
    refined: int = 12
    questions: int = 150
    compared: int = 60
    rounds: int = 7


QUICK = Effort(samples=18, initial=4, iterations=3, transferred=2, refined=1, questions=12, rounds=2)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo", epilog=EXAMPLES)(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Directory for strategies, picture and figures.")] = Path("vflowopt-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test in seconds; its figures mean little.")] = False,
    model: Annotated[str, typer.Option(hidden=True)] = "reference",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Search strategies for the reference model, and show what pruning gains and costs.

    Searches a 25 % budget in full; 50 % and 10 % start from its best strategies and known good ones, and are refined a
    little. Then answers held-out questions, times prefills and draws a picture. Ctrl-C during the search goes on with
    the best so far.
    """
    started, effort, say = time.perf_counter(), QUICK if quick else Effort(), notes()
    chosen = choose(model)
    if not (chosen.named and chosen.named.examples):
        raise InputError(f"the demo needs a named model with examples, such as reference; {model!r} is none")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {str(out)!r}: {error}") from error
    loaded = chosen.load()
    say.print(
        f"[b]1/4 Search[/b] on {effort.samples} examples of {chosen.label}: one prefill per example and evaluation",
        markup=True,
    )
    strategies = search_all(loaded, gather(chosen, data=None, split="search", count=effort.samples), effort, seed)
    for budget, strategy in strategies.items():
        strategy.save(out / _file(chosen.label, budget))
    say.print(f"[b]2/4 Accuracy[/b] on {effort.questions} held-out questions that the search never saw", markup=True)
    questions = gather(chosen, data=None, split="test", count=effort.questions)
    named = {percent(budget, 0): strategies[budget] for budget in sorted(strategies, reverse=True)}
    outcomes = compare(loaded, questions, named, max_new_tokens=4)
    outcomes = with_similarity(loaded, questions[: effort.compared], named, outcomes)
    say.print("[b]3/4 Latency[/b] of one prefill, interleaved with the unpruned model", markup=True)
    largest = max(questions, key=lambda question: question.images()[0].width * question.images()[0].height)
    measured = measure(loaded, largest, named, effort.rounds)
    say.print("[b]4/4 Picture[/b]", markup=True)
    picture = draw(loaded, questions, strategies[MAIN], out / f"{chosen.label}-{MAIN:.0%}.png".replace("%", ""))
    figures = _figures(outcomes, measured)
    if as_json:
        print_json(figures)
    else:
        _print(chosen.label, outcomes, measured, min(effort.compared, len(questions)))
    files = ", ".join(_file(chosen.label, budget) for budget in strategies)
    say.print(f"strategies: {files}; picture: {picture.name}; all in {out}/", highlight=False, soft_wrap=True)
    say.print(f"took {time.perf_counter() - started:.0f} s", highlight=False)


def search_all(loaded: LoadedModel, questions: list[Question], effort: Effort, seed: int) -> dict[float, Strategy]:
    """A full search for the main budget; for the others one that starts from its best and the known good strategies."""
    from vflowopt.search import OptimizeResult, RichProgress, search

    inputs = tracked([question.prepare(loaded) for question in questions], "encoding")
    evaluator = loaded.adapter.evaluator(loaded.model, inputs, processor=loaded.processor)

    def run(budget: float, initial: int, iterations: int, starts: list[Strategy] | None) -> OptimizeResult:
        with RichProgress(notes()) as bar:
            return search(
                evaluator, budget, iterations=iterations, initial=initial, seed=seed, starts=starts, progress=bar,
                model_name=loaded.name,
            )  # fmt: skip

    main = run(MAIN, effort.initial, effort.iterations, None)
    ranked = sorted(main.history, key=lambda entry: -entry.score)
    found = list(dict.fromkeys(entry.strategy for entry in ranked))[: effort.transferred]
    # What is best at one budget may lie far from what is best at another: begin with what is known to be good, too.
    known = [entry.strategy for entry in main.history if entry.origin.startswith("start:")]
    best = list(dict.fromkeys([*found, *known]))
    others = {budget: run(budget, len(best), effort.refined, best).strategy for budget in OTHERS}
    return {MAIN: main.strategy, **others}


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


def draw(loaded: LoadedModel, questions: list[Question], strategy: Strategy, path: Path) -> Path:
    """The picture of one of the larger images whose question is answered right."""
    from vflowopt.picture import draw_plans

    by_size = sorted(questions, key=lambda question: -question.images()[0].width * question.images()[0].height)
    for question in by_size[:10]:
        with loaded.adapter.prune(loaded.model, strategy, processor=loaded.processor) as pruning:
            answer = loaded.generate(question.prepare(loaded), 4)
            plans, layers = pruning.plan, pruning.report.num_layers
        if is_right(answer, question.answers):
            break
    subtitle = f"{loaded.name} answers {answer!r} with {strategy.average_retention(layers):.0%} of the visual tokens"
    draw_plans(plans, question.images(), num_layers=layers, title=question.text, subtitle=subtitle).save(path)
    return path


def _file(label: str, budget: float) -> str:
    return f"{label}-{100 * budget:.0f}.json"


def _figures(outcomes: list[Outcome], measured: Benchmark) -> dict[str, Any]:
    return {
        "outcomes": [{**asdict(outcome), "accuracy": outcome.accuracy} for outcome in outcomes],
        "benchmark": asdict(measured),
    }


def _print(label: str, outcomes: list[Outcome], measured: Benchmark, compared: int) -> None:
    rows = [_row(outcome, bench, measured) for outcome, bench in zip(outcomes, measured.rows, strict=True)]
    columns = ("budget", "retention", "accuracy", "similarity", "visual tokens", "KV cache", "FLOPs", "latency")
    caption = (
        f"Accuracy and visual tokens (before pruning > after each stage): of {outcomes[0].questions} held-out "
        f"questions; last-token similarity to the unpruned model: of the first {compared} of them.\n"
        f"KV cache, FLOPs and latency: of the decoder's prefill of one image of {measured.unpruned.tokens[0]} tokens, "
        f"the last two as a fraction of unpruned."
    )
    results().print(table(f"{label}: pruned against unpruned", columns, rows, caption))


def _row(outcome: Outcome, bench: BenchRow, measured: Benchmark) -> tuple[str, ...]:
    relative = outcome.strategy != UNPRUNED
    speedup = measured.speedup(bench, "LM prefill")
    return (
        outcome.strategy,
        percent(outcome.retention),
        percent(outcome.accuracy),
        "-" if outcome.similarity is None else f"{outcome.similarity:.4f}",
        tokens(outcome.tokens),
        size(bench.kv_cache_bytes),
        f"1 / {measured.flops_ratio(bench):.1f}" if relative else "1",
        f"1 / {speedup:.1f}" if relative and speedup else "1",
    )
