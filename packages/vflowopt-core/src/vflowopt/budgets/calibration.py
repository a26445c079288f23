"""What an adapter offers besides if times of its models are to be measured and used; optional."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

from vflowopt.adapter import Inputs, Pruning
from vflowopt.budgets.cost import CostModel, Setting
from vflowopt.components.recycle import GridRecycler
from vflowopt.components.schedule import Progressive, default_stages
from vflowopt.components.scorer import CalibratedAttention
from vflowopt.errors import UnsupportedOperationError
from vflowopt.strategies.strategy import Strategy


@runtime_checkable
class CalibratingAdapter(Protocol):
    """An adapter that measures what prefills cost, and can leave inputs alone where pruning does not pay."""

    def setting(self, model: Any) -> Setting:
        """What the model's times depend on besides its input."""
        ...

    def calibrate(
        self,
        model: Any,
        samples: Iterable[Inputs],
        strategies: Sequence[Strategy],
        *,
        max_rows: int | None = None,
        rounds: int = 5,
        processor: Any = None,
        name: str | None = None,
        on_task: Callable[[int, int], None] | None = None,
    ) -> CostModel:
        """Measure prefills of several lengths, and what pruning adds to them.

        Args:
            model: the model.
            samples: processor outputs of batch size 1, best of different sizes.
            strategies: one of each kind whose own work is to be known.
            max_rows: longest prefill to measure; by default the longest sample's.
            rounds: measured rounds, interleaved.
            processor: the model's processor, from which to take the pixel normalisation.
            name: what to call the model.
            on_task: ``on_task(done, total)`` follows each run.
        """
        ...

    def prune(
        self, model: Any, strategy: Strategy, *, processor: Any = None, guard: CostModel | None = None
    ) -> Pruning:
        """See :func:`vflowopt.prune`."""
        ...


def calibrating(adapter: Any) -> CalibratingAdapter:
    """The adapter, if it can measure and use times.

    Raises:
        UnsupportedOperationError: it cannot.
    """
    if not isinstance(adapter, CalibratingAdapter):
        raise UnsupportedOperationError(
            f"adapter {getattr(adapter, 'name', type(adapter).__name__)!r} has no calibrate(): it knows nothing of "
            f"times, so there is no cost model, guard or latency budget for its models; ask its authors for it"
        )
    return adapter


def prune_guarded(
    adapter: Any,
    model: Any,
    strategy: Strategy,
    processor: Any = None,
    guard: CostModel | None = None,
    *,
    graphs: bool = False,
) -> Pruning:
    """:func:`vflowopt.prune` with the adapter at hand; only guard and graphs ask more of it than every adapter has.

    Raises:
        UnsupportedOperationError: there is a guard, and the adapter knows nothing of times, or graphs, and it has none.
        CostError, StrategyError: see :func:`vflowopt.prune`.
    """
    options: dict[str, Any] = {}
    if guard is not None:
        calibrating(adapter)
        options["guard"] = guard
    if graphs:
        if "graphs" not in inspect.signature(adapter.prune).parameters:
            raise UnsupportedOperationError(
                f"adapter {getattr(adapter, 'name', type(adapter).__name__)!r} has no CUDA graphs; leave graphs out"
            )
        options["graphs"] = True
    pruning: Pruning = adapter.prune(model, strategy, processor=processor, **options)
    return pruning


def usual_strategies(num_layers: int) -> tuple[Strategy, Strategy]:
    """What to calibrate with: the paper's method, and the dearest strategy that the search proposes."""
    stages = tuple(dict.fromkeys(default_stages(num_layers)))
    schedule = Progressive.geometric(0.4, stages, num_layers)
    scorers = (
        CalibratedAttention(threshold=1.5),
        CalibratedAttention(threshold=1.5, entropy_weight=1.0, diversity=0.5),
    )
    paper, dearest = (Strategy(scorer=scorer, schedule=schedule, recycler=GridRecycler(cell=3.5)) for scorer in scorers)
    return paper, dearest
