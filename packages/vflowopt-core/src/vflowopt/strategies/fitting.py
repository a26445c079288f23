"""Strategies whose schedule is fitted to samples, before they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from vflowopt.components import Recycler
from vflowopt.components.stage_scoring import FittedScorer, ReceivedAttention
from vflowopt.strategies.strategy import Provenance, Strategy


@dataclass(frozen=True)
class Fitting:
    """A strategy that lacks its schedule.

    Attributes:
        scorer: fits the schedule.
        budget: average retention in (0, 1].
        recycler: of the strategy.
    """

    scorer: FittedScorer
    budget: float
    recycler: Recycler | None = None

    def __call__(self, num_layers: int) -> Strategy:
        """There is no strategy without samples.

        Raises:
            StrategyError: always; says how to fit one.
        """
        return Strategy(
            scorer=self.scorer, schedule=self.scorer.schedule(self.budget, num_layers), recycler=self.recycler
        )

    def fit(self, seen: Sequence[ReceivedAttention], provenance: Provenance | None = None) -> Strategy:
        """The strategy, fitted to samples.

        Args:
            seen: see :func:`vflowopt.search.fitting.observe`.
            provenance: of the strategy.

        Raises:
            InputError: nothing was seen.
            BudgetError: the budget cannot be met on these samples; names the bound of those that can.
        """
        schedule = self.scorer.fit_schedule(seen, self.budget)
        return Strategy(scorer=self.scorer, schedule=schedule, recycler=self.recycler, provenance=provenance)
