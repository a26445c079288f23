"""The loop that every search shares: propose, evaluate, record, report."""

import math
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from vflowopt.adapter import Evaluator
from vflowopt.budgets.requests import Workload
from vflowopt.search.journal import Journal, Place
from vflowopt.search.progress import SearchProgress, SearchStep, watching
from vflowopt.search.result import HistoryEntry, OptimizeResult, best_of, installed_versions
from vflowopt.search.settings import Settings
from vflowopt.strategies.space import Point, SearchSpace
from vflowopt.strategies.strategy import Provenance, Strategy

WORST = -1.0
"""Score in place of one that is not finite: the lowest cosine similarity."""


class Proposer(Protocol):
    """Chooses points of the unit cube."""

    def propose(self, points: Sequence[Point], scores: Sequence[float]) -> tuple[Point, str]:
        """The next point and where it comes from, given all evaluated points and their scores (higher is better)."""
        ...


@dataclass(frozen=True)
class Run:
    """The loop: propose, evaluate, record.

    Attributes:
        evaluator: scores strategies.
        space: maps points to strategies.
        proposer: chooses points.
        settings: checked arguments.
        objective: label of what is scored.
        model_name: label of the model.
    """

    evaluator: Evaluator
    space: SearchSpace
    proposer: Proposer
    settings: Settings
    objective: str
    model_name: str | None

    def __call__(
        self, place: Place | None, method: dict[str, Any], progress: SearchProgress | bool | None
    ) -> OptimizeResult:
        """Run to the end or to Ctrl-C.

        Args:
            place: of the journal, if any.
            method: JSON values that identify the proposer, for the journal's first line.
            progress: see :func:`vflowopt.optimize`.

        Raises:
            JournalError: see :meth:`Journal.open`; raised before any evaluation.
        """
        with nullcontext() if place is None else Journal.open(place, self._identity(method)) as journal:
            return self._evaluated(journal, progress)

    def _evaluated(self, journal: Journal | None, progress: SearchProgress | bool | None) -> OptimizeResult:
        total = self.settings.total
        history = journal.entries[:total] if journal else []
        interrupted = False
        try:
            with watching(progress) as report:
                for done, entry in enumerate(history, start=1):
                    report(self._step(history[:done], entry, resumed=True))
                while len(history) < total:
                    entry = self._next(history)
                    history.append(entry)
                    if journal:
                        journal.append(entry)
                    report(self._step(history, entry, resumed=False))
        except KeyboardInterrupt:
            if not history:
                raise
            interrupted = len(history) < total
        return OptimizeResult(
            strategy=self._credited(history),
            history=tuple(history),
            interrupted=interrupted,
            notes=tuple(journal.notes) if journal else (),
        )

    def _next(self, history: Sequence[HistoryEntry]) -> HistoryEntry:
        asked = time.perf_counter()
        unit, origin = self.proposer.propose([entry.unit for entry in history], [entry.score for entry in history])
        strategy = self.space.to_strategy(unit)
        begun = time.perf_counter()
        evaluation = self.evaluator.evaluate(strategy)
        finite = math.isfinite(evaluation.score)
        return HistoryEntry(
            index=len(history),
            origin=origin,
            unit=unit,
            strategy=strategy,
            score=float(evaluation.score) if finite else WORST,
            retention=float(evaluation.retention),
            nonfinite=evaluation.nonfinite if finite else max(evaluation.nonfinite, 1),
            seconds=time.perf_counter() - begun,
            decoder_seconds=evaluation.decoder_seconds,
            proposal_seconds=begun - asked,
        )

    def _step(self, history: Sequence[HistoryEntry], entry: HistoryEntry, *, resumed: bool) -> SearchStep:
        left = self.settings.total - len(history)
        return SearchStep(
            entry=entry,
            best=best_of(history),
            done=len(history),
            total=self.settings.total,
            seconds_left=left * statistics.median(past.seconds for past in history),
            budget=self.space.budget,
            resumed=resumed,
        )

    def _identity(self, method: dict[str, Any]) -> dict[str, Any]:
        """What a journal must agree on; not the number of iterations, so that a longer run may continue."""
        return {
            "fingerprint": self.evaluator.fingerprint,
            "objective": self.objective,
            "budget": self.space.budget,
            "num_layers": self.space.num_layers,
            "stages": list(self.space.stages),
            "max_cell": self.space.max_cell,
            "variables": list(self.space.names),
            "fixed": dict(self.space.fixed),
            "seed": self.settings.seed,
            **method,
        }

    def _credited(self, history: Sequence[HistoryEntry]) -> Strategy:
        best, requested = best_of(history), self.settings.requested
        return best.strategy.with_provenance(
            Provenance(
                model=self.model_name,
                budget=self.space.budget,
                requested=requested and requested.requested(best.strategy, Workload.of(self.evaluator)),
                num_layers=self.space.num_layers,
                objective=self.objective,
                score=best.score,
                samples=len(self.evaluator.units),
                seed=self.settings.seed,
                evaluations=len(history),
                versions=installed_versions(),
            )
        )
