"""``vflowopt evaluate``: accuracy of strategies on questions with known answers."""

import re
import string
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from vflowopt.adapter import Inputs, LoadedModel
from vflowopt.budgets.calibration import prune_guarded
from vflowopt.budgets.cost import CostModel
from vflowopt.cli.console import percent, print_json, results, steps, table, tokens
from vflowopt.cli.data import Question, gather
from vflowopt.cli.guards import GuardOption, read_cost
from vflowopt.cli.media import FRAMES, FramesOption
from vflowopt.cli.models import DeviceOption, DtypeOption, ModelOption, choose
from vflowopt.cli.strategies import StrategiesOption, read_strategy
from vflowopt.errors import InputError
from vflowopt.report import PruningReport
from vflowopt.strategies.strategy import Strategy

EXAMPLES = """
[b]Examples[/b]

vflowopt evaluate -m reference -s reference-25.json -s mean-attention@0.25 -s random@0.25 --limit 200

vflowopt evaluate -m reference -s reference-25.json --data clips.jsonl --frames 8
"""
UNPRUNED = "unpruned"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate", epilog=EXAMPLES)(evaluate)


@dataclass(frozen=True)
class Outcome:
    """One row of the table.

    Attributes:
        strategy: as it was given.
        right: questions answered right.
        questions: questions asked.
        retention: achieved average retention, mean over questions.
        tokens: visual tokens before pruning and after each stage, mean over questions.
        similarity: last-token similarity to the unpruned model, if asked for.
        left_alone: questions whose input the guard did not have pruned; ``None`` without a guard.
    """

    strategy: str
    right: int
    questions: int
    retention: float
    tokens: tuple[float, ...]
    similarity: float | None = None
    left_alone: int | None = None

    @property
    def accuracy(self) -> float:
        """Share of questions answered right."""
        return self.right / self.questions


def evaluate(
    model: ModelOption,
    strategy: StrategiesOption,
    data: Annotated[
        Path | None,
        typer.Option(help="JSONL of image or video, question, answers; a named model brings its own test questions."),
    ] = None,
    frames: FramesOption = FRAMES,
    limit: Annotated[int, typer.Option(min=1, help="Questions at most: the first ones.")] = 200,
    similarity: Annotated[bool, typer.Option("--similarity", help="Also measure last-token similarity.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer at most.")] = 16,
    guard: GuardOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Answer questions unpruned and with each strategy; an answer counts if it equals an accepted one.

    Case, punctuation and articles are ignored in the comparison.
    """
    if guard is not None and similarity:
        raise InputError("--similarity measures strategies on every sample, whatever a --guard says; give one of them")
    given, cost = {text: read_strategy(text) for text in strategy}, read_cost(guard)
    chosen = choose(model)
    questions = gather(chosen, data=data, split="test", count=limit, frames=frames)
    if not all(question.answers for question in questions):
        raise InputError(f"{str(data)!r}: every line needs answers to evaluate accuracy")
    loaded = chosen.load(device, dtype)
    layers = loaded.adapter.num_layers(loaded.model)
    strategies = {text: strategy_for(layers) for text, strategy_for in given.items()}
    outcomes = compare(loaded, questions, strategies, max_new_tokens, cost)
    if similarity:
        outcomes = with_similarity(loaded, questions, strategies, outcomes)
    if as_json:
        print_json([{**asdict(outcome), "accuracy": outcome.accuracy} for outcome in outcomes])
        return
    rows = [
        (
            outcome.strategy,
            percent(outcome.accuracy),
            percent(outcome.retention),
            tokens(outcome.tokens),
            *([] if not similarity else ["-" if outcome.similarity is None else f"{outcome.similarity:.4f}"]),
            *([] if cost is None else ["-" if outcome.left_alone is None else str(outcome.left_alone)]),
        )
        for outcome in outcomes
    ]
    columns = ["strategy", "accuracy", "retention", "visual tokens", *(["similarity"] if similarity else [])]
    caption = "Visual tokens: before pruning > after each stage, mean per question."
    if cost is not None:
        columns.append("left alone")
        caption += " Left alone: questions whose input the guard did not have pruned."
    title = f"{chosen.label}: {len(questions)} questions"
    results().print(table(title, columns, rows, caption))


def compare(
    loaded: LoadedModel,
    questions: Sequence[Question],
    strategies: dict[str, Strategy],
    max_new_tokens: int,
    guard: CostModel | None = None,
) -> list[Outcome]:
    """Answer every question unpruned and with every strategy.

    Raises:
        BudgetError, StrategyError: a strategy does not fit the model or an image.
    """
    rows: dict[str, Strategy | None] = {UNPRUNED: None, **strategies}
    right = dict.fromkeys(rows, 0)
    reports: dict[str, list[PruningReport]] = {name: [] for name in strategies}
    with steps() as bar:
        task = bar.add_task("answering", total=len(questions) * len(rows))
        for question in questions:
            inputs = question.prepare(loaded)
            for name, strategy in rows.items():
                answer, report = _answer(loaded, inputs, strategy, max_new_tokens, guard)
                right[name] += is_right(answer, question.answers)
                if report is not None:
                    reports[name].append(report)
                bar.advance(task)
    outcomes = [_outcome(name, right[name], len(questions), reports[name]) for name in strategies]
    full = outcomes[0].tokens[:1] if outcomes else ()
    return [Outcome(UNPRUNED, right[UNPRUNED], len(questions), 1.0, full), *outcomes]


def with_similarity(
    loaded: LoadedModel, questions: Sequence[Question], strategies: dict[str, Strategy], outcomes: Sequence[Outcome]
) -> list[Outcome]:
    """The same rows with last-token similarity to the unpruned model."""
    with steps() as bar:
        task = bar.add_task("similarity", total=len(strategies))
        inputs = (question.prepare(loaded) for question in questions)
        evaluator = loaded.adapter.evaluator(loaded.model, inputs, processor=loaded.processor)
        found = {UNPRUNED: 1.0}
        for name, strategy in strategies.items():
            found[name] = evaluator.evaluate(strategy).score
            bar.advance(task)
    return [Outcome(**{**vars(outcome), "similarity": found[outcome.strategy]}) for outcome in outcomes]


def _answer(
    loaded: LoadedModel, inputs: Inputs, strategy: Strategy | None, length: int, guard: CostModel | None
) -> tuple[str, PruningReport | None]:
    if strategy is None:
        with nullcontext():
            return loaded.generate(inputs, length), None
    with prune_guarded(loaded.adapter, loaded.model, strategy, loaded.processor, guard) as pruning:
        return loaded.generate(inputs, length), pruning.report


def _outcome(name: str, right: int, questions: int, reports: Sequence[PruningReport]) -> Outcome:
    columns = zip(*(_per_stage(report) for report in reports), strict=True)
    decided = [report.guard for report in reports if report.guard is not None]
    return Outcome(
        strategy=name,
        right=right,
        questions=questions,
        retention=sum(report.retention for report in reports) / len(reports),
        tokens=tuple(sum(column) / len(reports) for column in columns),
        left_alone=sum(not one.pays for one in decided) if decided else None,
    )


def _per_stage(report: PruningReport) -> tuple[int, ...]:
    """Visual tokens of all units before pruning and after each stage."""
    stages = zip(*(unit.counts for unit in report.units), strict=True)
    return (sum(unit.tokens for unit in report.units), *(sum(counts) for counts in stages))


def is_right(answer: str, accepted: Sequence[str]) -> bool:
    """Whether an answer equals an accepted one, case, punctuation and articles aside."""
    return normalised(answer) in {normalised(text) for text in accepted}


def normalised(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces."""
    bare = text.casefold().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
