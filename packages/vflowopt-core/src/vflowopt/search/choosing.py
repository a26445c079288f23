"""Which of the evaluated strategies a search returns: by the model of the surface and a race, not by the best sample.

The model's mean at an evaluated point also counts what was seen around it; a lucky evaluation does not stand out
there. The best few by it race on fresh samples (:mod:`vflowopt.search.race`). The highest score over both counts, where
the model's mean stands for the samples that the search saw. Scores are compared to
:data:`vflowopt.search.surface.PRECISION` decimal places, and of equal ones the earlier evaluation is taken, so that
rounding errors of another machine choose no other.
"""

import itertools
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from vflowopt.adapter import Evaluator
from vflowopt.budgets.requests import Workload
from vflowopt.search.race import DOUBT, ENTRANTS, Difference, race
from vflowopt.search.result import HistoryEntry, Selected, best_of, installed_versions
from vflowopt.search.settings import Settings
from vflowopt.search.surface import PRECISION, Surface
from vflowopt.strategies.front import StrategyFront
from vflowopt.strategies.provenance import Provenance
from vflowopt.strategies.space import SearchSpace
from vflowopt.strategies.strategy import Strategy

STEP = 1.25
"""Neighbours in a front have a ratio of budgets of this at most."""


class Races(Protocol):
    """Runs evaluated strategies on fresh samples."""

    @property
    def parts(self) -> Sequence[range]:
        """Fresh samples, in the order in which they are raced on; none if nobody races."""
        ...

    @property
    def seen(self) -> int:
        """Samples of a search's evaluation."""
        ...

    def __call__(self, entry: int, part: range) -> Sequence[float]:
        """Similarities of an evaluation's strategy on a part of the samples."""
        ...


@dataclass(frozen=True)
class Chosen:
    """What a search returns.

    Attributes:
        front: strategies with their provenance.
        selected: how they were chosen, budget by budget.
        interrupted: whether Ctrl-C ended a race.
    """

    front: StrategyFront
    selected: tuple[Selected, ...]
    interrupted: bool


@dataclass(frozen=True)
class Choosing:
    """Chooses what a search returns.

    Attributes:
        evaluator: of the search.
        space: of its largest budget.
        settings: of the search.
        objective: label of what is scored.
        model_name: label of the model.
        by_model: ask the model of the surface and race; otherwise the highest score is taken.
    """

    evaluator: Evaluator
    space: SearchSpace
    settings: Settings
    objective: str
    model_name: str | None
    by_model: bool = True

    def __call__(self, history: Sequence[HistoryEntry], races: Races, *, race: bool = True) -> Chosen:
        """Choose for every budget at which something was evaluated.

        Args:
            history: one or more evaluations.
            races: runs the best few.
            race: whether to; otherwise the model alone decides.
        """
        budgets = [budget for budget in self.settings.budgets if any(entry.budget == budget for entry in history)]
        interrupted = False
        selected: list[Selected] = []
        surface = Surface(self.space, self.settings.budgets, history)
        for budget in budgets:
            if not self.by_model:
                best = best_of([entry for entry in history if entry.budget == budget])
                selected.append(Selected(budget, best, best.score))
                continue
            try:
                selected.append(select(surface, budget, races if race and not interrupted else None))
            except KeyboardInterrupt:
                interrupted = True
                selected.append(select(surface, budget, None))
        found = {one.budget: one.entry.strategy for one in selected}
        found |= dict(self._between(surface, selected))
        falling = sorted(found, reverse=True)
        strategies = [self._credited(found[budget], budget, selected, history) for budget in falling]
        front = StrategyFront(num_layers=self.space.num_layers, strategies=tuple(strategies))
        return Chosen(front, tuple(selected), interrupted)

    def _between(self, surface: Surface, selected: Sequence[Selected]) -> Iterator[tuple[float, Strategy]]:
        """Strategies for budgets between those of the search: of what was chosen anywhere, the model's best there."""
        for above, below in itertools.pairwise(selected):
            steps = math.ceil(math.log(above.budget / below.budget) / math.log(STEP))
            for step in range(1, steps):
                budget = above.budget * (below.budget / above.budget) ** (step / steps)
                losses = surface.losses(budget)
                best = min(selected, key=lambda one: (round(losses[one.entry.index], PRECISION), one.entry.index))
                yield budget, replace(self.space, budget=budget).to_strategy(best.entry.unit)

    def _credited(
        self, strategy: Strategy, budget: float, selected: Sequence[Selected], history: Sequence[HistoryEntry]
    ) -> Strategy:
        requested = self.settings.requested
        return strategy.with_provenance(
            Provenance(
                model=self.model_name,
                budget=budget,
                requested=requested and requested.requested(strategy, Workload.of(self.evaluator)),
                num_layers=self.space.num_layers,
                objective=self.objective,
                score=next((one.entry.score for one in selected if one.budget == budget), None),
                samples=len(self.evaluator.units),
                seed=self.settings.seed,
                evaluations=len(history),
                versions=installed_versions(),
            )
        )


def select(surface: Surface, budget: float, races: Races | None) -> Selected:
    """What is returned for a budget at which something was evaluated.

    Args:
        surface: the model of the history.
        budget: average retention.
        races: runs the best few; ``None`` if nobody races.
    """
    history = surface.history
    losses = surface.losses(budget)
    expected = {entry.index: 1.0 - float(losses[entry.index]) for entry in history if entry.budget == budget}
    ranked = _ranked(expected)
    entrants = _distinct(ranked, history)[:ENTRANTS]
    if races is None or not races.parts or len(entrants) < 2:
        return Selected(budget, history[ranked[0]], expected[ranked[0]])
    fresh = race(entrants, races.parts, races)
    combined = {
        index: (races.seen * expected[index] + sum(similarities)) / (races.seen + len(similarities))
        for index, similarities in fresh.items()
    }
    chosen, *others = _ranked(combined)
    differences = {index: Difference.of(fresh[chosen], fresh[index]) for index in others}
    equal = [index for index in others if not differences[index].is_certain]
    errors = [differences[index].error for index in equal]
    return Selected(
        budget=budget,
        entry=history[chosen],
        expected=expected[chosen],
        fresh=statistics.fmean(fresh[chosen]),
        equal=tuple(equal),
        within=DOUBT * max(errors) if errors else None,
    )


def _ranked(scores: dict[int, float]) -> list[int]:
    """Highest first; of equal ones the earlier evaluation."""
    return sorted(scores, key=lambda index: (-round(scores[index], PRECISION), index))


def _distinct(ranked: Sequence[int], history: Sequence[HistoryEntry]) -> list[int]:
    """Without those whose strategy stands before them."""
    first: dict[str, int] = {}
    for index in ranked:
        first.setdefault(history[index].strategy.to_json(), index)
    return list(first.values())
