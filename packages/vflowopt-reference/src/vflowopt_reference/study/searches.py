"""Searches of the study, each with a journal so that an interrupted study goes on where it stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vflowopt import Strategy
from vflowopt.search import OptimizeResult, SearchProgress, random_search, search


@dataclass(frozen=True)
class Searches:
    """Runs searches on one evaluator.

    Attributes:
        evaluator: of the search split.
        journals: directory.
        initial: evaluations before the Gaussian process is used.
        iterations: evaluations after that.
        advance: called after every evaluation.
        model_name: for the strategies' provenance.
    """

    evaluator: Any
    journals: Path
    initial: int
    iterations: int
    advance: SearchProgress
    model_name: str = "reference"

    def bayesian(self, budget: float, seed: int) -> OptimizeResult:
        """The search as users run it, known good starts included."""
        return self._run(search, f"search-{100 * budget:.0f}-{seed}", budget, seed, None)

    def bayesian_without_starts(self, budget: float, seed: int) -> OptimizeResult:
        """The search from uniform draws alone: what random search is to be compared with."""
        return self._run(search, f"no-starts-{100 * budget:.0f}-{seed}", budget, seed, ())

    def random(self, budget: float, seed: int) -> OptimizeResult:
        """As many uniform draws."""
        return random_search(
            self.evaluator,
            budget,
            evaluations=self.initial + self.iterations,
            seed=seed,
            journal=self.journals / f"random-{100 * budget:.0f}-{seed}.jsonl",
            progress=self.advance,
            model_name=self.model_name,
        )

    def _run(
        self, method: Any, name: str, budget: float, seed: int, starts: tuple[Strategy, ...] | None
    ) -> OptimizeResult:
        result: OptimizeResult = method(
            self.evaluator,
            budget,
            initial=self.initial,
            iterations=self.iterations,
            seed=seed,
            starts=starts,
            journal=self.journals / f"{name}.jsonl",
            progress=self.advance,
            model_name=self.model_name,
        )
        if result.interrupted:
            raise KeyboardInterrupt
        return result
