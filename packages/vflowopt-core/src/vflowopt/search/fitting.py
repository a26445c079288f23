"""Strategies whose schedule is fitted to samples: what they are before and after, and how samples are observed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vflowopt.adapter import FittingAdapter, Inputs, LoadedModel
from vflowopt.components import Recycler
from vflowopt.components.stage_scoring import FittedScorer, ReceivedAttention
from vflowopt.errors import UnsupportedOperationError
from vflowopt.search.result import installed_versions
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
            seen: see :func:`observe`.
            provenance: of the strategy.

        Raises:
            InputError: nothing was seen.
            BudgetError: the budget cannot be met on these samples; names the bound of those that can.
        """
        schedule = self.scorer.fit_schedule(seen, self.budget)
        return Strategy(scorer=self.scorer, schedule=schedule, recycler=self.recycler, provenance=provenance)

    def provenance(self, model: str, num_layers: int, samples: int, source: str) -> Provenance:
        """Where a fitted strategy comes from."""
        return Provenance(
            model=model, budget=self.budget, num_layers=num_layers, samples=samples, source=source,
            versions=installed_versions(),
        )  # fmt: skip


def check_observable(adapter: object, name: str) -> FittingAdapter:
    """The adapter, if methods can be fitted with it.

    Raises:
        UnsupportedOperationError: it is called ``name`` and cannot observe what samples receive.
    """
    if not isinstance(adapter, FittingAdapter):
        raise UnsupportedOperationError(
            f"adapter {name!r} has no received_attention(): methods cannot be fitted to samples with it; ask its "
            f"authors for it"
        )
    return adapter


def observe(loaded: LoadedModel, inputs: Iterable[Inputs], *, ranks: bool = False) -> Sequence[ReceivedAttention]:
    """What the visual tokens of some samples receive in every decoder layer of the unpruned model.

    Args:
        loaded: the model.
        inputs: processor outputs.
        ranks: whether ranks are wanted, see :attr:`vflowopt.components.stage_scoring.FittedScorer.fits_to_ranks`.

    Raises:
        UnsupportedOperationError: the model's adapter cannot observe it.
        InputError: no samples, or one without visual tokens.
    """
    adapter = check_observable(loaded.adapter, loaded.adapter.name)
    wanted = {"ranks": True} if ranks else {}  # adapters that know nothing of ranks serve the other methods
    return adapter.received_attention(loaded.model, inputs, processor=loaded.processor, **wanted)
