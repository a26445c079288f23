"""What a search returns: the chosen strategies, and everything that was evaluated on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from itertools import accumulate
from typing import Any

from vflowopt.figures import percent, seconds
from vflowopt.search.race import Heat
from vflowopt.strategies.front import StrategyFront
from vflowopt.strategies.strategy import Strategy

PACKAGES = ("vflowopt-core", "vflowopt-hf", "vflowopt-qwen", "numpy", "scipy", "emukit", "torch", "transformers")
"""Distributions whose versions go into a strategy's provenance, where installed."""


@dataclass(frozen=True)
class SearchCost:
    """What a search took against its floor, one pruned prefill per sample and evaluation: seconds, over all of them.

    Attributes:
        evaluations: how many were measured.
        decoder: in the decoder's pruned prefills: the floor. Of several processes that of the slowest.
        evaluating: in evaluations; the prefills are part of it.
        proposing: in choosing points.
    """

    evaluations: int
    decoder: float
    evaluating: float
    proposing: float

    @property
    def overhead(self) -> float:
        """What was spent beyond the floor, in parts of it."""
        return (self.evaluating + self.proposing) / self.decoder - 1.0 if self.decoder else 0.0

    def __str__(self) -> str:
        """One line for users."""
        per = 1.0 / self.evaluations
        return (
            f"{seconds((self.evaluating + self.proposing) * per)} per evaluation: {seconds(self.decoder * per)} of "
            f"prefills, {seconds((self.evaluating - self.decoder) * per)} of scoring and planning, "
            f"{seconds(self.proposing * per)} to choose it; {percent(self.overhead)} over the prefills alone"
        )


@dataclass(frozen=True)
class HistoryEntry:
    """One evaluation.

    Attributes:
        index: 0 for the first.
        origin: ``"start:NAME"`` (a known good strategy), ``"initial"`` (uniform design), ``"search"`` (Expected
            Improvement) or ``"random"`` (random search).
        unit: point of the unit cube.
        budget: average retention at which the point was evaluated.
        strategy: the strategy at that point; without provenance.
        score: objective, higher is better; -1 if the evaluator gave none that is finite.
        retention: average retention achieved by the exact counts, mean over samples.
        nonfinite: samples whose similarity was not finite.
        expected: by how much the logarithm of 1 - score was expected to fall when the point was chosen; ``None`` where
            no model chose it.
        seconds: duration of the evaluation; ignored, like the other times, when entries are compared.
        decoder_seconds: of these, the prefills alone; ``None`` if they were not measured.
        proposal_seconds: duration of choosing the point.
    """

    index: int
    origin: str
    unit: tuple[float, ...]
    budget: float
    strategy: Strategy
    score: float
    retention: float
    nonfinite: int = 0
    expected: float | None = None
    seconds: float = field(default=0.0, compare=False)
    decoder_seconds: float | None = field(default=None, compare=False)
    proposal_seconds: float = field(default=0.0, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The entry as JSON values; floats survive exactly."""
        strategy = self.strategy.model_dump(mode="json", exclude={"provenance"})
        return {**self.__dict__, "unit": list(self.unit), "strategy": strategy}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "HistoryEntry":
        """Inverse of :meth:`to_json`.

        Raises:
            TypeError, ValueError, KeyError: the data are something else.
        """
        return cls(
            index=int(data["index"]),
            origin=str(data["origin"]),
            unit=tuple(float(value) for value in data["unit"]),
            budget=float(data["budget"]),
            strategy=Strategy.model_validate(data["strategy"]),
            score=float(data["score"]),
            retention=float(data["retention"]),
            nonfinite=int(data["nonfinite"]),
            expected=None if data["expected"] is None else float(data["expected"]),
            seconds=float(data["seconds"]),
            decoder_seconds=None if data.get("decoder_seconds") is None else float(data["decoder_seconds"]),
            proposal_seconds=float(data.get("proposal_seconds", 0.0)),
        )


@dataclass(frozen=True)
class Selected:
    """What a search has chosen for a budget.

    Attributes:
        budget: average retention.
        entry: the evaluation whose strategy it is.
        expected: its score on the search's samples as the model of the surface sees it: without its luck.
        fresh: its score on fresh samples that the search did not see; ``None`` if nobody raced.
        equal: indices of the other evaluations that fresh samples could not tell from it.
        within: how far their score may be from its own: twice the standard error of the paired difference, the largest.
    """

    budget: float
    entry: HistoryEntry
    expected: float
    fresh: float | None = None
    equal: tuple[int, ...] = ()
    within: float | None = None


@dataclass(frozen=True)
class OptimizeResult:
    """Outcome of :func:`vflowopt.optimize`.

    Attributes:
        front: the strategies found, with their provenance: one for every budget of the search, and for any in between.
        selected: what was chosen for each budget, falling, and how sure that is.
        history: every evaluation, in order.
        heats: evaluations on fresh samples, in order.
        interrupted: whether Ctrl-C ended the search before its last evaluation.
        saved: evaluations that were left out because nothing more was expected of them.
        notes: what the user should know, for example that a torn journal line was dropped.
    """

    front: StrategyFront
    selected: tuple[Selected, ...]
    history: tuple[HistoryEntry, ...]
    heats: tuple[Heat, ...] = ()
    interrupted: bool = False
    saved: int = 0
    notes: tuple[str, ...] = ()

    @property
    def strategy(self) -> Strategy:
        """The strategy found, with its provenance; of several budgets that of the largest."""
        return self.front.at(self.selected[0].budget)

    @property
    def best(self) -> HistoryEntry:
        """The evaluation whose strategy that is."""
        return self.selected[0].entry

    @property
    def unsearched(self) -> dict[str, tuple[float, ...]]:
        """Scores of what was evaluated at the same budget on the same samples, but takes no search; by name.

        ``"mean-attention"``: plain mean attention, with the search's fixed variables if it has any. ``"drawn"``: the
        uniform draws of the initial design. Of each none if it is not in the history. Of several budgets the largest.
        """
        origins = {"mean-attention": "start:mean-attention", "drawn": "initial"}
        return {
            name: tuple(entry.score for entry in self._at_largest if entry.origin == origin)
            for name, origin in origins.items()
        }

    @property
    def _at_largest(self) -> list[HistoryEntry]:
        return [entry for entry in self.history if entry.budget == self.best.budget]

    @property
    def cost(self) -> SearchCost | None:
        """What the evaluations took against their prefills alone; ``None`` if nothing was measured."""
        measured = [entry for entry in self.history if entry.decoder_seconds is not None]
        if not measured:
            return None
        return SearchCost(
            evaluations=len(measured),
            decoder=sum(entry.decoder_seconds or 0.0 for entry in measured),
            evaluating=sum(entry.seconds for entry in measured),
            proposing=sum(entry.proposal_seconds for entry in measured),
        )

    @property
    def best_so_far(self) -> tuple[float, ...]:
        """Highest score after each evaluation, of whatever budget."""
        return tuple(accumulate((entry.score for entry in self.history), max))


def best_of(history: Sequence[HistoryEntry]) -> HistoryEntry:
    """The entry with the highest score; of equal ones the first."""
    return max(history, key=lambda entry: entry.score)


def installed_versions() -> dict[str, str]:
    """Versions of :data:`PACKAGES`, read from their metadata: nothing is imported."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
