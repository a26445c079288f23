"""The loop that every search shares: propose, evaluate, record, report; then choose."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from vflowopt.search.choosing import Choosing
from vflowopt.search.journal import Journal, Place
from vflowopt.search.progress import SearchProgress, SearchStep, watching
from vflowopt.search.proposer import Proposal
from vflowopt.search.race import Heat
from vflowopt.search.result import HistoryEntry, OptimizeResult, best_of
from vflowopt.search.samples import Samples
from vflowopt.search.settings import Settings
from vflowopt.strategies.space import SearchSpace

WORST = -1.0
"""Score in place of one that is not finite: the lowest cosine similarity."""

PATIENCE = 3
"""So many proposals in a row at every budget have to promise next to nothing before a search ends."""


class Proposer(Protocol):
    """Chooses points of the unit cube."""

    def propose(self, history: Sequence[HistoryEntry], budget: float) -> Proposal:
        """The next point, for a budget, given all evaluations so far."""
        ...


@dataclass(frozen=True)
class Run:
    """The loop: propose, evaluate, record.

    Attributes:
        samples: what strategies are scored on.
        space: maps points to strategies at the largest budget.
        proposer: chooses points.
        settings: checked arguments.
        choosing: chooses what is returned.
    """

    samples: Samples
    space: SearchSpace
    proposer: Proposer
    settings: Settings
    choosing: Choosing
    _spaces: Mapping[float, SearchSpace] = field(init=False)

    def __post_init__(self) -> None:
        spaces = {budget: replace(self.space, budget=budget) for budget in self.settings.budgets}
        object.__setattr__(self, "_spaces", spaces)

    def __call__(
        self, place: Place | None, method: dict[str, Any], progress: SearchProgress | bool | None
    ) -> OptimizeResult:
        """Run to the end, to the plateau or to Ctrl-C.

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
                while len(history) < total and not self._is_on_plateau(history):
                    entry = self._next(history)
                    history.append(entry)
                    if journal:
                        journal.append(entry)
                    report(self._step(history, entry, resumed=False))
        except KeyboardInterrupt:
            if not history:
                raise
            interrupted = len(history) < total
        heats = Heats(self.samples, history, journal)
        chosen = self.choosing(history, heats, race=not interrupted)
        return OptimizeResult(
            front=chosen.front,
            selected=chosen.selected,
            history=tuple(history),
            heats=tuple(heats.run),
            interrupted=interrupted or chosen.interrupted,
            saved=0 if interrupted else total - len(history),
            notes=tuple(journal.notes) if journal else (),
        )

    def _is_on_plateau(self, history: Sequence[HistoryEntry]) -> bool:
        last = [entry.expected for entry in history[-PATIENCE * len(self.settings.budgets) :]]
        return self.settings.plateau > 0 and all(
            expected is not None and expected < self.settings.plateau for expected in last
        ) and len(last) == PATIENCE * len(self.settings.budgets)  # fmt: skip

    def _next(self, history: Sequence[HistoryEntry]) -> HistoryEntry:
        asked = time.perf_counter()
        budget = self.settings.budgets[len(history) % len(self.settings.budgets)]
        proposal = self.proposer.propose(history, budget)
        strategy = self._spaces[budget].to_strategy(proposal.point)
        begun = time.perf_counter()
        evaluation = self.samples.evaluate(strategy)
        finite = math.isfinite(evaluation.score)
        return HistoryEntry(
            index=len(history),
            origin=proposal.origin,
            unit=proposal.point,
            budget=budget,
            strategy=strategy,
            score=float(evaluation.score) if finite else WORST,
            retention=float(evaluation.retention),
            nonfinite=evaluation.nonfinite if finite else max(evaluation.nonfinite, 1),
            expected=proposal.expected,
            seconds=time.perf_counter() - begun,
            decoder_seconds=evaluation.decoder_seconds,
            proposal_seconds=begun - asked,
        )

    def _step(self, history: Sequence[HistoryEntry], entry: HistoryEntry, *, resumed: bool) -> SearchStep:
        left = self.settings.total - len(history)
        return SearchStep(
            entry=entry,
            best=best_of([past for past in history if past.budget == entry.budget]),
            done=len(history),
            total=self.settings.total,
            seconds_left=left * statistics.median(past.seconds for past in history),
            budget=entry.budget,
            resumed=resumed,
        )

    def _identity(self, method: dict[str, Any]) -> dict[str, Any]:
        """What a journal must agree on; not the number of iterations, so that a longer run may continue."""
        return {
            "fingerprint": self.samples.evaluator.fingerprint,
            "objective": self.choosing.objective,
            "budgets": list(self.settings.budgets),
            "num_layers": self.space.num_layers,
            "stages": list(self.space.stages),
            "max_cell": self.space.max_cell,
            "variables": list(self.space.names),
            "fixed": dict(self.space.fixed),
            "fresh": self.samples.fresh,
            "seed": self.settings.seed,
            **method,
        }


class Heats:
    """Heats of the races: those of the journal, and those that are run now.

    Args:
        samples: what is held back for them.
        history: whose strategies race.
        journal: records them.
    """

    def __init__(self, samples: Samples, history: Sequence[HistoryEntry], journal: Journal | None) -> None:
        self._samples, self._history, self._journal = samples, history, journal
        self._known = {(heat.entry, heat.samples): heat for heat in (journal.heats if journal else ())}
        self.run: list[Heat] = []

    @property
    def parts(self) -> list[range]:
        """Samples of one heat after the other."""
        return self._samples.parts

    @property
    def seen(self) -> int:
        """Samples of a search's evaluation."""
        return self._samples.seen

    def __call__(self, entry: int, part: range) -> Sequence[float]:
        """Similarities of an evaluation's strategy on a part of the samples."""
        heat = self._known.get((entry, part))
        if heat is None:
            begun = time.perf_counter()
            similarities = tuple(self._samples.similarities(self._history[entry].strategy, part))
            heat = Heat(entry, part.start, part.stop, similarities, time.perf_counter() - begun)
            if self._journal:
                self._journal.append(heat)
        self.run.append(heat)
        return heat.similarities
