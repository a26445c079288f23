"""Strategies whose schedule is fitted to samples, before they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from vflowopt.components import Mass, Recycler, Schedule
from vflowopt.components.stage_scoring import FittedScorer, ReceivedAttention
from vflowopt.plans.competitors import SEPARATORS, Separators
from vflowopt.strategies.provenance import Provenance
from vflowopt.strategies.strategy import Strategy


@dataclass(frozen=True)
class Fitting:
    """A strategy that lacks its schedule.

    Attributes:
        scorer: fits the schedule.
        budget: average retention in (0, 1].
        recycler: of the strategy.
        mass: likewise.
        separators: likewise.
    """

    scorer: FittedScorer
    budget: float
    recycler: Recycler | None = None
    mass: Mass | None = None
    separators: Separators = SEPARATORS

    def __call__(self, num_layers: int) -> Strategy:
        """There is no strategy without samples.

        Raises:
            StrategyError: always; says how to fit one.
        """
        return self.strategy(self.scorer.schedule(self.budget, num_layers))

    def fit(self, seen: Sequence[ReceivedAttention], provenance: Provenance | None = None) -> Strategy:
        """The strategy, fitted to samples.

        Args:
            seen: see :func:`vflowopt.search.fitting.observe`.
            provenance: of the strategy.

        Raises:
            InputError: nothing was seen.
            BudgetError: the budget cannot be met on these samples; names the bound of those that can.
        """
        return self.strategy(self.scorer.fit_schedule(seen, self.budget), provenance)

    def strategy(self, schedule: Schedule, provenance: Provenance | None = None) -> Strategy:
        """The strategy with a schedule that was fitted."""
        return Strategy(
            scorer=self.scorer,
            schedule=schedule,
            recycler=self.recycler,
            mass=self.mass,
            separators=self.separators,
            provenance=provenance,
        )
