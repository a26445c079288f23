"""What a search for each model brings: ``python -m vflowopt_reference.tailoring --out DIR``.

The same questions to all reference models at the same budgets: pruned by the strategy searched for that model, by
those searched for the other models, and by strategies that are the same for all.
"""

from __future__ import annotations

import argparse
import operator
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from vflowopt.errors import BudgetError, VFlowOptError

from .names import NAMES
from .study.options import add_search_options
from .study.rows import BY_HAND, Row, by_hand
from .study.store import Store, fingerprint

if TYPE_CHECKING:
    from vflowopt import Strategy

COMMAND: Final = "python -m vflowopt_reference.tailoring"
BUDGETS: Final = (0.25, 0.1)
OWN: Final = "searched for this model"
MEAN, RANDOM = "plain mean attention, one stage", "random, one stage"
ORDER: Final = (OWN, *(f"searched for {name}" for name in NAMES), BY_HAND, MEAN, RANDOM)
"""Rows of the table."""

Found = dict[tuple[str, float, int], "Strategy"]
"""Searched strategies by model, budget and seed."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Compare strategies searched for each reference model with strategies that are the same for all. "
        "Writes tailoring.md and tailoring.json; the same command goes on where an earlier run stopped.",
    )
    add_search_options(parser, questions=400)
    parser.add_argument("--seeds", type=int, default=3, help="searches per model and budget (default 3)")
    options = parser.parse_args(arguments)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as bar:
            print(tailoring(options, bar))
    except VFlowOptError as error:
        print(f"{COMMAND}: error: {error}", file=sys.stderr)
        sys.exit(2)


def tailoring(options: argparse.Namespace, bar: Progress) -> Path:
    """Run what is missing and write both files; returns the Markdown file."""
    import torch

    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    settings = {name: getattr(options, name) for name in ("questions", "samples", "initial", "iterations", "seeds")}
    settings["weights"] = {name: fingerprint(name) for name in NAMES}
    store = Store(options.out / "tailoring.json", settings)
    found = {key: strategy for name in NAMES for key, strategy in _searched(name, options, bar).items()}
    for (name, budget, seed), strategy in found.items():
        store.once(f"strategy/{name}/{budget}/{seed}", partial(_settings, strategy))
    target: Path = options.out / "tailoring.md"
    for name in NAMES:
        _answer(name, found, store, options.questions, bar)
        target.write_text(markdown(store.figures, settings, f"{COMMAND} --out {options.out}"), encoding="utf-8")
    return target


def _searched(name: str, options: argparse.Namespace, bar: Progress) -> Found:
    from . import held_out, load_model, load_processor
    from .study.bank import QuestionBank
    from .study.searches import Searches

    journals = options.out / "journals" / name
    journals.mkdir(parents=True, exist_ok=True)
    evaluations = options.initial + options.iterations
    task = bar.add_task(f"{name}: searches", total=len(BUDGETS) * options.seeds * evaluations)
    bank = QuestionBank(load_model(name), load_processor(name), held_out(options.samples, split="search"))
    searches = Searches(
        bank.evaluator, journals, options.initial, options.iterations, lambda _: bar.advance(task), model_name=name
    )
    return {
        (name, budget, seed): searches.bayesian(budget, seed).strategy
        for budget in BUDGETS
        for seed in range(options.seeds)
    }


def _answer(name: str, found: Found, store: Store, questions: int, bar: Progress) -> None:
    """All strategies on one model; a model whose figures are all there is not loaded."""
    from . import held_out, load_model, load_processor
    from .study.bank import QuestionBank

    rows = {f"{name}/{budget}/{row.group}/{row.seed}": row for budget in BUDGETS for row in _rows(name, budget, found)}
    if all(key in store.figures for key in (f"{name}/unpruned", *rows)):
        return
    bank = QuestionBank(load_model(name), load_processor(name), held_out(questions, split="test"))
    store.once(f"{name}/unpruned", lambda: asdict(bank.unpruned()))
    for key, row in bar.track(rows.items(), description=f"{name}: strategies", total=len(rows)):
        store.once(key, partial(_score, bank, row.strategy))


def _settings(strategy: Strategy) -> dict[str, Any]:
    return strategy.model_dump(mode="json", include={"scorer", "schedule", "recycler"})


def _score(bank: Any, strategy: Strategy) -> dict[str, Any]:
    """The score, or why the model refuses the strategy: one has more row separators than the other keeps tokens."""
    try:
        return asdict(bank.score(strategy))
    except BudgetError as error:
        return {"refused": str(error)}


def _rows(name: str, budget: float, found: Found) -> list[Row]:
    from vflowopt import CalibratedAttention, Progressive, Strategy
    from vflowopt.baselines import RandomTokens

    flat = Progressive.flat(budget)
    rows = [
        Row(OWN if model == name else f"searched for {model}", seed, strategy)
        for (model, at, seed), strategy in found.items()
        if at == budget
    ]
    rows.append(by_hand(budget))
    rows.append(Row(MEAN, 0, Strategy(scorer=CalibratedAttention(), schedule=flat)))
    rows += [Row(RANDOM, seed, Strategy(scorer=RandomTokens(seed=seed), schedule=flat)) for seed in (0, 1)]
    return rows


def markdown(figures: dict[str, Any], settings: dict[str, Any], command: str) -> str:
    """The figures so far, in the form of the paper's tables: a block per budget, a column per model."""
    models = [name for name in NAMES if f"{name}/unpruned" in figures]
    lines = [
        "# Strategies searched per model",
        "",
        f"Made by `{command}`: {settings['questions']} held-out questions, {settings['samples']} search samples, "
        f"{settings['initial']} + {settings['iterations']} evaluations per search, {settings['seeds']} seeds. "
        "Accuracy, mean over seeds, and its share of the unpruned model's. Refused: some image has more row separators "
        "(always retained) than a stage keeps tokens.",
        "",
        "| budget | strategy | " + " | ".join(models) + " |",
        "|---:|---|" + "---:|" * len(models),
        "| 100% | unpruned | " + " | ".join(f"{_accuracy(figures[f'{name}/unpruned']):.1%}" for name in models) + " |",
    ]
    for budget in BUDGETS:
        groups = {name: _groups(figures, name, budget) for name in models}
        found = {group for own in groups.values() for group in own}
        for group in [group for group in ORDER if group in found]:
            cells = []
            for name in models:
                cells.append(_cell(groups[name].get(group, []), _accuracy(figures[f"{name}/unpruned"])))
            label = f"**{group}**" if group == OWN else group
            lines.append(f"| {budget:.0%} | {label} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_found(figures)]) + "\n"


def _found(figures: dict[str, Any]) -> list[str]:
    """The searched strategies: t, alpha, a and cumulative retention."""
    lines = [
        "| searched for | budget | seed | t | alpha | a | retention in layers 0, 3, 6 and on |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for key, one in figures.items():
        kind, _, place = key.partition("/")
        if kind == "strategy":
            name, budget, seed = place.split("/")
            scorer, shares = one["scorer"], accumulate(one["schedule"]["retention"], operator.mul)
            kept = " / ".join(f"{share:.1%}" for share in shares)
            threshold, entropy, cell = scorer["threshold"], scorer["entropy_weight"], one["recycler"]["cell"]
            lines.append(
                f"| {name} | {float(budget):.0%} | {seed} | {threshold:.2f} | {entropy:.2f} | {cell:.1f} | {kept} |"
            )
    return lines


def _cell(scores: list[dict[str, Any]], full: float) -> str:
    """Mean accuracy over the seeds that the model takes, and its share of the unpruned model's."""
    taken = [_accuracy(score) for score in scores if "refused" not in score]
    if not taken:
        return "refused" if scores else ""
    seeds = f", {len(taken)} of {len(scores)} seeds" if len(taken) < len(scores) else ""
    return f"{statistics.mean(taken):.1%} ({statistics.mean(taken) / full:.1%}{seeds})"


def _groups(figures: dict[str, Any], name: str, budget: float) -> dict[str, list[dict[str, Any]]]:
    """Scores of a model at a budget by strategy."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for key, score in figures.items():
        model, at, group, _seed = key.split("/") if key.count("/") == 3 else ("", "", "", "")
        if model == name and at == str(budget):
            groups.setdefault(group, []).append(score)
    return groups


def _accuracy(score: dict[str, Any]) -> float:
    return float(score["right"] / score["questions"])


if __name__ == "__main__":
    main()
