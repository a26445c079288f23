"""Budgets that people have: bytes of KV cache and seconds of prefill, translated into an average retention.

The search knows one kind of budget, the average retention R. A budget in another unit is translated once, before the
search, for the samples given: into the largest R at which no strategy that the search can propose takes more. Text
tokens are always kept, so they are paid for first.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from vflowopt.budgets.kv_cache import CacheShape
from vflowopt.budgets.lengths import SampleSize
from vflowopt.components import Schedule
from vflowopt.errors import BudgetError, UnsupportedOperationError, shown
from vflowopt.layout import TokenLayout
from vflowopt.strategies.provenance import RequestedBudget
from vflowopt.strategies.space import SearchSpace
from vflowopt.strategies.strategy import Strategy


@runtime_checkable
class SizedEvaluator(Protocol):
    """What an evaluator offers besides if budgets are to be given in bytes or seconds; optional."""

    num_layers: int
    """Decoder layers L."""

    units: Sequence[Sequence[TokenLayout]]
    """Layouts of each sample's units."""

    lengths: Sequence[int]
    """Rows of each sample's unpruned prefill."""

    cache: CacheShape
    """The model's KV cache."""


@dataclass(frozen=True)
class Workload:
    """The samples that a budget is translated for.

    Attributes:
        samples: their sizes.
        num_layers: decoder layers L.
        cache: the model's KV cache.
    """

    samples: tuple[SampleSize, ...]
    num_layers: int
    cache: CacheShape

    @classmethod
    def of(cls, evaluator: object) -> "Workload":
        """That of an evaluator.

        Raises:
            UnsupportedOperationError: it does not say how long its samples are.
        """
        if not isinstance(evaluator, SizedEvaluator):
            raise UnsupportedOperationError(
                f"{type(evaluator).__name__} does not say how long its samples are (lengths, cache), so that only an "
                f"average retention can be its budget"
            )
        sizes = (
            SampleSize(rows, tuple(unit.tokens for unit in units))
            for rows, units in zip(evaluator.lengths, evaluator.units, strict=True)
        )
        return cls(tuple(sizes), evaluator.num_layers, evaluator.cache)


@dataclass(frozen=True)
class RequestBudget(ABC):
    """A budget per request, in a unit of its own.

    Attributes:
        worst: whether every sample has to meet the budget; by default their mean.
    """

    kind: ClassVar[str]
    unit: ClassVar[str]

    worst: bool = field(default=False, kw_only=True)

    @property
    @abstractmethod
    def amount(self) -> float:
        """What a request may use."""

    @property
    def over(self) -> Literal["mean", "worst"]:
        """What of the samples has to meet the budget."""
        return "worst" if self.worst else "mean"

    @abstractmethod
    def check(self, adapter: Any, model: Any) -> None:
        """Check that the budget can be translated for a model.

        Raises:
            UnsupportedOperationError: the model's adapter lacks what that takes.
            CostError: the budget comes with times of another model or machine.
        """

    @abstractmethod
    def used(self, size: SampleSize, schedule: Schedule, workload: Workload) -> float:
        """What one sample uses, from a schedule's exact counts."""

    @abstractmethod
    def unpruned(self, size: SampleSize, workload: Workload) -> float:
        """What one sample uses if nothing is pruned."""

    @abstractmethod
    def most(self, size: SampleSize, retention: float, workload: Workload, space: SearchSpace) -> float:
        """What no strategy of an average retention exceeds for one sample; does not fall as the retention grows."""

    @abstractmethod
    def shown(self, amount: float, rounding: Callable[[float], int] = round) -> str:
        """An amount with its unit."""

    def of_request(self, used: Sequence[float]) -> float:
        """What samples use, as one number: their mean, or the largest."""
        return max(used) if self.over == "worst" else sum(used) / len(used)

    def retention(self, workload: Workload, space: SearchSpace) -> float:
        """The largest average retention at which every strategy of the search meets the budget.

        Args:
            workload: the samples.
            space: where strategies come from: stages, and the least that they may retain; its own budget is ignored.

        Raises:
            BudgetError: the budget is below what the smallest retention uses, or above what the unpruned model does; or
                pruning itself costs more than it saves.
        """

        def most(retention: float) -> float:
            return self.of_request([self.most(size, retention, workload, space) for size in workload.samples])

        whole = self.of_request([self.unpruned(size, workload) for size in workload.samples])
        smallest = space.smallest_budget
        if most(smallest) > whole:
            raise BudgetError(
                f"pruning does not help to meet a {self.kind} budget of {self.shown(self.amount)} on these samples: at "
                f"the least retention ({smallest:.4f}) they take {self.shown(most(smallest), math.ceil)}, unpruned "
                f"{self.shown(whole, math.floor)}; give larger images, or an average retention as the budget"
            )
        if not most(smallest) <= self.amount <= whole:
            remedy = "the model meets it unpruned" if self.amount > whole else "ask for more, or give shorter prompts"
            raise BudgetError(
                f"a {self.kind} budget of {self.shown(self.amount)} per request ({self.over} of "
                f"{len(workload.samples)} samples) leaves no average retention to search at: {remedy}; feasible are "
                f"{self.shown(most(smallest), math.ceil)} (average retention {smallest:.4f}) to "
                f"{self.shown(whole, math.floor)} (unpruned)"
            )
        low, high = smallest, 1.0
        if most(high) <= self.amount:
            return high
        while low < (middle := (low + high) / 2) < high:  # until no float lies between
            low, high = (middle, high) if most(middle) <= self.amount else (low, middle)
        return low

    def requested(self, strategy: Strategy, workload: Workload) -> RequestedBudget:
        """The budget and what a strategy uses of it, for the strategy's provenance."""
        used = [self.used(size, strategy.schedule, workload) for size in workload.samples]
        return RequestedBudget(
            kind=self.kind, value=self.amount, unit=self.unit, over=self.over, used=self.of_request(used)
        )


@dataclass(frozen=True)
class KVCacheBytes(RequestBudget):
    """Bytes of keys and values that the prefill of one request leaves in the cache, text included.

    They are counted, not estimated: exact for every strategy and input.

    Attributes:
        limit: bytes per request.
        worst: see :class:`RequestBudget`.

    Raises:
        BudgetError: the limit is not a positive number.
    """

    kind: ClassVar[str] = "kv-cache"
    unit: ClassVar[str] = "bytes"

    limit: float

    def __post_init__(self) -> None:
        require_positive(self.kind, self.limit)

    @property
    def amount(self) -> float:
        """Bytes."""
        return self.limit

    def check(self, adapter: Any, model: Any) -> None:
        """Nothing to check: bytes are read off the model."""

    def used(self, size: SampleSize, schedule: Schedule, workload: Workload) -> float:
        """Exact bytes."""
        return workload.cache.bytes(size.lengths(schedule, workload.num_layers))

    def unpruned(self, size: SampleSize, workload: Workload) -> float:
        """Exact bytes."""
        return workload.cache.bytes((size.rows,) * workload.num_layers)

    def most(self, size: SampleSize, retention: float, workload: Workload, space: SearchSpace) -> float:  # noqa: ARG002
        """What visual rows take, each unit's count rounded up by a token, as far as caches have room.

        Rounding adds up to half a token, or a whole one where a unit would keep none.
        """
        cache, visual = workload.cache, sum(size.units)
        text = cache.bytes((size.text,) * workload.num_layers)
        most = visual * cache.most(retention) + len(size.units) * sum(cache.row_bytes)
        return text + min(most, self.unpruned(size, workload) - text)

    def shown(self, amount: float, rounding: Callable[[float], int] = round) -> str:
        """Bytes, exactly, and with a binary unit."""
        return f"{rounding(amount):,} bytes ({amount / 2**20:.2f} MiB)"


def require_positive(kind: str, amount: float) -> None:
    """Check an amount.

    Raises:
        BudgetError: it is not a number above 0.
    """
    try:
        is_positive = math.isfinite(amount) and amount > 0
    except (TypeError, ValueError, OverflowError):
        is_positive = False
    if not is_positive:
        raise BudgetError(f"a {kind} budget is a number above 0, got {shown(amount)}")
