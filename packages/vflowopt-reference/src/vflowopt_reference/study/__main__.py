"""Command line of the study."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vflowopt import Strategy
from vflowopt.errors import VFlowOptError

from . import cost
from .bank import QuestionBank
from .options import add_search_options
from .rows import BUDGETS, SEEDS, ablations, baselines, searched
from .searches import Searches
from .store import Store, fingerprint
from .tables import markdown

COMMAND = "python -m vflowopt_reference.study"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(
        prog=COMMAND,
        description="Compare searched strategies, ablations and baselines on the reference model. Writes study.md and "
        "study.json; the same command goes on where an earlier run stopped.",
    )
    add_search_options(parser, questions=600)
    parser.add_argument("--compared", type=int, default=5, help="seeds of search against random search (default 5)")
    parser.add_argument("--quick", action="store_true", help="tiny numbers, to try it out; the figures mean nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        options.questions, options.samples, options.initial, options.iterations, options.compared = 4, 4, 3, 1, 1
    try:
        with Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), console=Console(stderr=True),
        ) as bar:  # fmt: skip
            print(study(options, bar))
    except VFlowOptError as error:
        print(f"{COMMAND}: error: {error}", file=sys.stderr)
        sys.exit(2)


def study(options: argparse.Namespace, bar: Progress) -> Path:
    """Run what is missing and write both files; returns the Markdown file."""
    import torch

    from .. import held_out, load_model, load_processor

    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    journals = options.out / "journals"
    journals.mkdir(exist_ok=True)
    settings = {name: getattr(options, name) for name in ("questions", "samples", "initial", "iterations")}
    settings["weights"] = fingerprint()
    store = Store(options.out / "study.json", settings)

    def report() -> None:
        text = markdown(store.figures, settings, f"{COMMAND} --out {options.out}")
        (options.out / "study.md").write_text(text, encoding="utf-8")

    model, processor = load_model(), load_processor()
    sampled = held_out(options.samples, split="search")
    search_bank = QuestionBank(model, processor, sampled, lambda items: bar.track(items, description="search samples"))
    found = _search_all(search_bank.evaluator, store, journals, options, bar)
    report()
    examples = held_out(options.questions, split="test")
    bank = QuestionBank(model, processor, examples, lambda items: bar.track(items, description="test questions"))
    store.once("quality/unpruned", lambda: asdict(bank.unpruned()))
    rows = {
        f"quality/{budget}/{row.group}/{row.seed}": row.strategy
        for budget in BUDGETS
        for row in (*searched(found[budget]), *ablations(found[budget], budget), *baselines(budget))
    }
    for key, strategy in bar.track(rows.items(), description="strategies", total=len(rows)):
        store.once(key, partial(_score, bank, strategy))
        report()
    few = [found[budget][seed] for budget in BUDGETS for seed in SEEDS[:1]]
    store.once("cost", lambda: cost.compare(model, processor, sampled, few))
    report()
    return Path(options.out / "study.md")


def _score(bank: QuestionBank, strategy: Strategy) -> dict[str, Any]:
    return asdict(bank.score(strategy))


def _search_all(
    evaluator: Any, store: Store, journals: Path, options: argparse.Namespace, bar: Progress
) -> dict[float, dict[int, Strategy]]:
    """Strategies by budget and seed; and, at 25 %, the comparison with random search."""
    each = options.initial + options.iterations
    total = each * (len(BUDGETS) * len(SEEDS) + 3 * options.compared)
    task = bar.add_task("searches", total=total)
    searches = Searches(evaluator, journals, options.initial, options.iterations, lambda _: bar.advance(task))
    found = {budget: {seed: searches.bayesian(budget, seed).strategy for seed in SEEDS} for budget in BUDGETS}

    def compare(seed: int) -> dict[str, float]:
        return {
            "search": searches.bayesian(0.25, seed).best.score,
            "no starts": searches.bayesian_without_starts(0.25, seed).best.score,
            "random": searches.random(0.25, seed).best.score,
        }

    for seed in range(options.compared):
        store.once(f"search/0.25/{seed}", partial(compare, seed))
    bar.update(task, completed=total)
    return found


if __name__ == "__main__":
    main()
