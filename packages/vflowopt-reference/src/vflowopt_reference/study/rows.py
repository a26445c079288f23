"""The strategies that the study compares, at one budget."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vflowopt import Strategy

BUDGETS = (0.5, 0.25, 0.1)
SEEDS = (0, 1, 2)
ENTROPY = 50.0
"""Entropy weight of the row "with entropy": about a quarter of a view's patches."""


@dataclass(frozen=True)
class Row:
    """A strategy of a group; rows of one group differ in a seed only and are averaged.

    Attributes:
        group: what the table calls it.
        seed: of the search or of the random choice.
        strategy: at the budget.
    """

    group: str
    seed: int
    strategy: Strategy


SEARCHED = "searched"
BY_HAND = "by hand: t = 1.5, cell 3.5, one stage"


def searched(found: dict[int, Strategy]) -> Iterator[Row]:
    """The outcome of each search seed."""
    for seed, strategy in found.items():
        yield Row(SEARCHED, seed, strategy)


def ablations(found: dict[int, Strategy], budget: float) -> Iterator[Row]:
    """Each searched strategy with one ingredient changed and nothing searched again."""
    from vflowopt import CalibratedAttention, Progressive

    for seed, strategy in found.items():
        scorer = strategy.scorer
        assert isinstance(scorer, CalibratedAttention)  # the search makes no others
        without_entropy = scorer.model_copy(update={"entropy_weight": 0.0})
        with_entropy = scorer.model_copy(update={"entropy_weight": max(ENTROPY, scorer.entropy_weight)})
        changes: dict[str, dict[str, object]] = {
            "searched, without calibration (t = 0)": {"scorer": scorer.model_copy(update={"threshold": 0.0})},
            "searched, without recycling": {"recycler": None},
            "searched, one stage before the LLM": {"schedule": Progressive.flat(budget)},
            "searched, without entropy": {"scorer": without_entropy},
            f"searched, entropy weight at least {ENTROPY:.0f}": {"scorer": with_entropy},
        }
        for group, change in changes.items():
            yield Row(group, seed, strategy.model_copy(update={**change, "provenance": None}))


def by_hand(budget: float) -> Row:
    """What one would set without a search: the same for every model."""
    from vflowopt import CalibratedAttention, GridRecycler, Progressive, Strategy

    strategy = Strategy(
        scorer=CalibratedAttention(threshold=1.5), schedule=Progressive.flat(budget), recycler=GridRecycler(cell=3.5)
    )
    return Row(BY_HAND, 0, strategy)


def baselines(budget: float) -> Iterator[Row]:
    """Strategies that no search has seen: by hand, and one stage before the LLM without recycling."""
    from vflowopt import CalibratedAttention, Progressive, Strategy
    from vflowopt.baselines import LowResolution, RandomTokens, UniformGrid

    flat = Progressive.flat(budget)
    yield by_hand(budget)
    yield Row("plain mean attention", 0, Strategy(scorer=CalibratedAttention(), schedule=flat))
    for seed in SEEDS:
        yield Row("random", seed, Strategy(scorer=RandomTokens(seed=seed), schedule=flat))
    yield Row("uniform grid", 0, Strategy(scorer=UniformGrid(), schedule=flat))
    yield Row("low resolution (base crop first)", 0, Strategy(scorer=LowResolution(), schedule=flat))
