"""A cell of the comparison, and what is found in it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vflowopt.compare.methods import UNPRUNED, Method

TOLERANCE = 0.5 + 1e-6
"""How many tokens of the average layer a unit may be off its budget: what rounding to whole tokens explains."""


@dataclass(frozen=True)
class Cell:
    """One method on one model at one budget with one seed.

    Attributes:
        model: label.
        method: identity, see :attr:`vflowopt.compare.methods.Method.identity`.
        budget: average retention; ``None`` for the unpruned model, and for a strategy file, which has its own.
        seed: ``None`` where it makes no difference.
    """

    model: str
    method: str
    budget: float | None
    seed: int | None


@dataclass(frozen=True)
class Result:
    """A finished cell.

    Attributes:
        cell: which one.
        cannot: why the method cannot be run; empty if it can. Nothing else is filled in then.
        budget: the average retention aimed at: of the cell, or of the strategy file for the model's layers.
        right: for each question whether it was answered right.
        similarity: last-token similarity to the unpruned model, mean over questions.
        retention: achieved average retention, mean over questions.
        deviation: worst over all images and videos: tokens of the average layer by which it is off the budget.
        tokens: visual tokens before pruning and after each stage, mean over questions.
        kv_cache_bytes: after the prefill, mean over questions.
        flops: of the decoder's prefill, mean over questions.
        latency: by part of a prefill the median in seconds, and the unpruned model's from the same rounds.
        strategy: as in its file; ``None`` for the unpruned model.
        score: what the search that found the strategy gave it, on the samples and by the objective of that search;
            ``None`` if it was not searched.
        seconds: what the cell took.
    """

    cell: Cell
    cannot: str = ""
    budget: float = 1.0
    right: tuple[bool, ...] = ()
    similarity: float = 0.0
    retention: float = 0.0
    deviation: float = 0.0
    tokens: tuple[float, ...] = ()
    kv_cache_bytes: float = 0.0
    flops: float = 0.0
    latency: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    strategy: Mapping[str, Any] | None = None
    score: float | None = None
    seconds: float = field(default=0.0, compare=False)

    @property
    def accuracy(self) -> float:
        """Share of questions answered right."""
        return sum(self.right) / len(self.right)

    @property
    def on_budget(self) -> bool:
        """Whether every image and video meets the budget up to rounding to whole tokens."""
        return self.deviation <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """JSON values; floats survive exactly, answers become a text of 0 and 1."""
        return {**asdict(self), "right": "".join(str(int(right)) for right in self.right)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Result":
        """Inverse of :meth:`to_json`.

        Raises:
            TypeError, ValueError, KeyError: the data are something else.
        """
        return cls(
            **{
                **data,
                "cell": Cell(**data["cell"]),
                "right": tuple(bool(int(right)) for right in data["right"]),
                "tokens": tuple(data["tokens"]),
                "latency": {part: (own, full) for part, (own, full) in data["latency"].items()},
            }
        )


def cells_of(model: str, methods: Sequence[Method], budgets: Sequence[float], seeds: int) -> Iterator[Cell]:
    """The cells of one model: unpruned, fixed strategies, then budget by budget."""
    yield Cell(model, UNPRUNED, None, None)
    for method in methods:
        if method.file:
            yield Cell(model, method.identity, None, None)
    for budget in budgets:
        for method in methods:
            if method.budgeted:
                for seed in range(seeds) if method.seeded else (None,):
                    yield Cell(model, method.identity, budget, seed)
