"""``vflowopt evaluate``: accuracy of strategies on questions with known answers."""

import re
import string
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from vflowopt.adapter import Inputs, LoadedModel, strategy_of
from vflowopt.budgets.calibration import prune_guarded
from vflowopt.budgets.cost import CostModel
from vflowopt.cli.budgets import GuardOption, read_cost
from vflowopt.cli.cells import DataOption, LengthOption, LimitOption
from vflowopt.cli.console import JsonOption, notes, print_json, steps
from vflowopt.cli.data import Question, gather
from vflowopt.cli.help import Command
from vflowopt.cli.media import FRAMES, FramesOption
from vflowopt.cli.models import DeviceOption, DtypeOption, ModelOption, choose
from vflowopt.cli.strategies import STRATEGIES, StrategiesOption
from vflowopt.cli.tables import print_table
from vflowopt.errors import BudgetError, ImportanceError, InputError
from vflowopt.figures import percent, score, tokens
from vflowopt.report import PruningReport
from vflowopt.strategies.reading import read_strategy
from vflowopt.strategies.strategy import Strategy

EXAMPLES = """
[b]Examples[/b]

vflowopt evaluate -m reference -s reference-25.json -s mean-attention@0.25 -s random@0.25 --limit 200

vflowopt evaluate -m reference -s reference-25.json --data clips.jsonl --frames 8
"""
UNPRUNED = "unpruned"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("evaluate", cls=Command, epilog=EXAMPLES + STRATEGIES)(evaluate)


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
        skipped: questions that were left out of every row, as one of the rows cannot answer them.
    """

    strategy: str
    right: int
    questions: int
    retention: float
    tokens: tuple[float, ...]
    similarity: float | None = None
    left_alone: int | None = None
    skipped: int = 0

    @property
    def accuracy(self) -> float:
        """Share of questions answered right."""
        return self.right / self.questions


def evaluate(
    model: ModelOption,
    strategy: StrategiesOption,
    data: DataOption = None,
    frames: FramesOption = FRAMES,
    limit: LimitOption = 200,
    similarity: Annotated[bool, typer.Option("--similarity", help="Also measure last-token similarity.")] = False,
    max_new_tokens: LengthOption = 16,
    guard: GuardOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Answer questions unpruned and with each strategy; an answer counts if it equals an accepted one.

    Case, punctuation and articles are ignored in the comparison.
    """
    if guard is not None and similarity:
        raise InputError("--similarity measures strategies on every sample, whatever a --guard says; give one of them")
    given, cost = {text: read_strategy(text) for text in strategy}, read_cost(guard)
    chosen = choose(model)
    questions = gather(chosen, data=data, split="test", count=limit, frames=frames)
    for question in questions:
        if not question.answers:
            raise InputError(f"{question.origin}: every line needs answers to evaluate accuracy")
    loaded = chosen.load(device, dtype)
    strategies = {text: strategy_of(loaded.adapter, loaded.model, strategy_for) for text, strategy_for in given.items()}
    skipped: dict[int, str] = {}
    outcomes = compare(loaded, questions, strategies, max_new_tokens, cost, skipped.__setitem__)
    for why in skipped.values():
        notes().print(f"skipped: {why}", highlight=False, soft_wrap=True)
    if similarity:
        answered = [question for number, question in enumerate(questions) if number not in skipped]
        outcomes = with_similarity(loaded, answered, strategies, outcomes)
    if as_json:
        print_json([{**asdict(outcome), "accuracy": outcome.accuracy} for outcome in outcomes])
        return
    rows = [
        (
            outcome.strategy,
            percent(outcome.accuracy),
            percent(outcome.retention),
            tokens(outcome.tokens),
            *([] if not similarity else ["-" if outcome.similarity is None else score(outcome.similarity)]),
            *([] if cost is None else ["-" if outcome.left_alone is None else str(outcome.left_alone)]),
        )
        for outcome in outcomes
    ]
    columns = ["strategy", "accuracy", "retention", "visual tokens", *(["similarity"] if similarity else [])]
    caption = "Visual tokens: before pruning > after each stage, mean per question."
    if cost is not None:
        columns.append("left alone")
        caption += " Left alone: questions whose input the guard did not have pruned."
    title = f"{chosen.label}: {len(questions) - len(skipped)} questions"
    if skipped:
        title += f", {len(skipped)} skipped in all rows"
    print_table(title, columns, rows, caption)


def compare(
    loaded: LoadedModel,
    questions: Sequence[Question],
    strategies: dict[str, Strategy],
    max_new_tokens: int,
    guard: CostModel | None = None,
    on_skip: Callable[[int, str], Any] | None = None,
) -> list[Outcome]:
    """Answer every question unpruned and with every strategy.

    Args:
        loaded: model and processor.
        questions: with answers.
        strategies: by the name of their row.
        max_new_tokens: length of an answer at most.
        guard: leaves inputs alone where pruning does not pay.
        on_skip: ``on_skip(number, why)`` follows a question, counted from 0, that cannot be asked: its image cannot be
            read or used, or a strategy's budget is too small for it. It is left out of all rows, so that they stay
            comparable. Without it, such a question ends the comparison.

    Raises:
        InputError, BudgetError, ImportanceError: no question can be answered, or one, without ``on_skip``.
        StrategyError: a strategy does not fit the model.
    """
    rows: dict[str, Strategy | None] = {**strategies, UNPRUNED: None}  # a budget that is too small is found out first
    answered: list[dict[str, tuple[bool, PruningReport | None]]] = []
    with steps() as bar:
        task = bar.add_task("answering", total=len(questions))
        for number, question in enumerate(questions):
            try:
                answered.append(_ask(loaded, question, rows, max_new_tokens, guard))
            except (InputError, BudgetError, ImportanceError) as error:
                if on_skip is None or (number == len(questions) - 1 and not answered):
                    raise
                why = str(error)
                on_skip(number, why if why.startswith(question.origin) else f"{question.origin}: {why}")
            bar.advance(task)
    reports = {name: [report for one in answered if (report := one[name][1]) is not None] for name in strategies}
    right = {name: sum(one[name][0] for one in answered) for name in rows}
    skipped = len(questions) - len(answered)
    outcomes = [_outcome(name, right[name], reports[name], skipped) for name in strategies]
    full = outcomes[0].tokens[:1] if outcomes else ()
    return [Outcome(UNPRUNED, right[UNPRUNED], len(answered), 1.0, full, skipped=skipped), *outcomes]


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


def _ask(
    loaded: LoadedModel,
    question: Question,
    rows: Mapping[str, Strategy | None],
    length: int,
    guard: CostModel | None,
) -> dict[str, tuple[bool, PruningReport | None]]:
    """Whether each row answers right, and what was pruned."""
    inputs, found = question.prepare(loaded), {}
    for name, strategy in rows.items():
        answer, report = _answer(loaded, inputs, strategy, length, guard)
        found[name] = is_right(answer, question.answers), report
    return found


def _answer(
    loaded: LoadedModel, inputs: Inputs, strategy: Strategy | None, length: int, guard: CostModel | None
) -> tuple[str, PruningReport | None]:
    if strategy is None:
        with nullcontext():
            return loaded.generate(inputs, length), None
    with prune_guarded(loaded.adapter, loaded.model, strategy, loaded.processor, guard) as pruning:
        return loaded.generate(inputs, length), pruning.report


def _outcome(name: str, right: int, reports: Sequence[PruningReport], skipped: int) -> Outcome:
    columns = zip(*(_per_stage(report) for report in reports), strict=True)
    decided = [report.guard for report in reports if report.guard is not None]
    return Outcome(
        strategy=name,
        right=right,
        questions=len(reports),
        retention=sum(report.retention for report in reports) / len(reports),
        tokens=tuple(sum(column) / len(reports) for column in columns),
        left_alone=sum(not one.pays for one in decided) if decided else None,
        skipped=skipped,
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
