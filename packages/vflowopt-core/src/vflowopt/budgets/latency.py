"""A budget in seconds of prefill, by a cost model (:mod:`vflowopt.budgets.cost`)."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from vflowopt.budgets.calibration import calibrating
from vflowopt.budgets.cost import CostModel, Kind
from vflowopt.budgets.lengths import SampleSize
from vflowopt.budgets.requests import RequestBudget, Workload, require_positive
from vflowopt.components import Schedule
from vflowopt.errors import CostError, shown
from vflowopt.strategies.rescaling import LEAST
from vflowopt.strategies.space import SearchSpace

SEARCHED = Kind(scorer="calibrated-attention", recycler="grid", needs=("attention", "entropy", "features"))
"""The dearest strategy that a search proposes."""

ROUNDING = 1e-9
"""A share of tokens this far off its bounds is a rounding error."""


@dataclass(frozen=True)
class PrefillLatency(RequestBudget):
    """Seconds that a cost model expects of one request's prefill: vision tower, pruning, decoder, head.

    The model was fitted to measurements on one machine (``vflowopt calibrate``) and predicts; it does not promise.

    Attributes:
        seconds: per request, at batch size 1.
        cost: the cost model.
        worst: see :class:`RequestBudget`.

    Raises:
        BudgetError: the seconds are not a positive number.
        CostError: the cost model is none.
    """

    kind: ClassVar[str] = "prefill-latency"
    unit: ClassVar[str] = "seconds"

    seconds: float
    cost: CostModel

    def __post_init__(self) -> None:
        require_positive(self.kind, self.seconds)
        if not isinstance(self.cost, CostModel):
            raise CostError(f"a {self.kind} budget needs a CostModel (CostModel.load), got {shown(self.cost)}")

    @property
    def amount(self) -> float:
        """Seconds."""
        return self.seconds

    def check(self, adapter: Any, model: Any) -> None:
        """See :meth:`RequestBudget.check`."""
        self.cost.require(calibrating(adapter).setting(model), SEARCHED)

    def used(self, size: SampleSize, schedule: Schedule, workload: Workload) -> float:
        """Seconds expected, of the dearest strategy that a search proposes."""
        return self._pruned(size, size.lengths(schedule, workload.num_layers))

    def unpruned(self, size: SampleSize, workload: Workload) -> float:
        """Seconds expected."""
        return self.cost.prefill_seconds((size.rows,) * workload.num_layers, size.units)

    def most(self, size: SampleSize, retention: float, workload: Workload, space: SearchSpace) -> float:  # noqa: ARG002
        """The slowest split of the retention over the stages: attention makes uneven splits slower than flat ones.

        A layer's time is convex in its rows, so that some corner of the splits is the slowest.
        """
        return max(self._pruned(size, _rows(size, split, space)) for split in _corners(retention, space))

    def shown(self, amount: float, rounding: Callable[[float], int] = round) -> str:
        """Seconds, to a tenth of a millisecond."""
        return f"{rounding(1e4 * amount) / 1e4:.4f} s"

    def _pruned(self, size: SampleSize, lengths: Sequence[float]) -> float:
        return self.cost.pruned_seconds(lengths, SEARCHED, size.units)


def _rows(size: SampleSize, split: Sequence[float], space: SearchSpace) -> list[float]:
    """Rows of each layer, each unit's count rounded up by half a token."""
    rows: list[float] = [size.rows] * space.stages[0]
    for share, width in zip(split, space.widths, strict=True):
        rows += [size.text + sum(min(tokens, max(1, share * tokens + 0.5)) for tokens in size.units)] * width
    return rows


def _corners(retention: float, space: SearchSpace) -> Iterator[tuple[float, ...]]:
    """Corners of the splits of a retention: some first stages keep all, some last ones the least, the others share."""
    widths, floor = space.widths, LEAST
    target = retention * space.num_layers - space.stages[0]
    for whole, shared in itertools.combinations(range(len(widths) + 1), 2):
        left = target - sum(widths[:whole]) - floor * sum(widths[shared:])
        share = left / sum(widths[whole:shared])
        if floor - ROUNDING <= share <= 1 + ROUNDING:
            share = min(max(share, floor), 1.0)
            yield (1.0,) * whole + (share,) * (shared - whole) + (floor,) * (len(widths) - shared)
