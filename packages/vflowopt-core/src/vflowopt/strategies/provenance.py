"""Where a strategy comes from, as its file tells."""

from typing import Literal

from pydantic import Field

from vflowopt.values import Value


class RequestedBudget(Value):
    """A budget in a unit of its own, from which the average retention was computed (:mod:`vflowopt.budgets.requests`).

    Attributes:
        kind: ``"kv-cache"`` or ``"prefill-latency"``.
        value: what one request may use.
        unit: of ``value``.
        over: whether the mean of the samples has to meet it, or the worst of them.
        used: what the strategy uses of it, likewise.
    """

    kind: str
    value: float
    unit: str
    over: Literal["mean", "worst"]
    used: float


class Provenance(Value):
    """Where a strategy comes from. Free of meaning for pruning; all fields optional."""

    model: str | None = None
    budget: float | None = None
    requested: RequestedBudget | None = None
    num_layers: int | None = None
    objective: str | None = None
    score: float | None = None
    samples: int | None = None
    seed: int | None = None
    evaluations: int | None = None
    source: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
