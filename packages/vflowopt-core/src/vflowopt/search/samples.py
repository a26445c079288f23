"""Which samples a search evaluates on, and which it holds back for the race of the best few."""

from collections.abc import Sequence
from dataclasses import dataclass

from vflowopt.adapter import Evaluation, Evaluator, SamplingEvaluator
from vflowopt.errors import InputError, UnsupportedOperationError
from vflowopt.search.race import blocks
from vflowopt.strategies.strategy import Strategy

ENOUGH = 12
"""Samples from which on a third of them is held back."""


@dataclass(frozen=True)
class Samples:
    """The samples of an evaluator, divided.

    Attributes:
        evaluator: scores strategies.
        fresh: how many are held back: the last ones.
    """

    evaluator: Evaluator
    fresh: int

    @classmethod
    def of(cls, evaluator: Evaluator, fresh: int | None) -> "Samples":
        """Hold back ``fresh`` samples; by default a third, or none if they are few or cannot be evaluated apart.

        Raises:
            InputError: that leaves none to search on.
            UnsupportedOperationError: the evaluator cannot evaluate some samples without the others.
        """
        total, able = len(evaluator.units), isinstance(evaluator, SamplingEvaluator)
        if fresh is None:
            return cls(evaluator, total // 3 if able and total >= ENOUGH else 0)
        if fresh and not able:
            raise UnsupportedOperationError(
                f"{type(evaluator).__name__} cannot evaluate some samples without the others (evaluate_on), so that "
                f"none can be held back: set fresh to 0"
            )
        if fresh >= total:
            raise InputError(f"of {total} samples {fresh} cannot be held back: give more samples, or a smaller fresh")
        return cls(evaluator, fresh)

    @property
    def seen(self) -> int:
        """How many samples an evaluation takes: the first ones."""
        return len(self.evaluator.units) - self.fresh

    @property
    def parts(self) -> list[range]:
        """Those held back, in the order in which they are raced on."""
        return blocks(range(self.seen, self.seen + self.fresh))

    def evaluate(self, strategy: Strategy) -> Evaluation:
        """Score a strategy on the samples that the search sees."""
        return self._on(strategy, range(self.seen)) if self.fresh else self.evaluator.evaluate(strategy)

    def similarities(self, strategy: Strategy, part: range) -> Sequence[float]:
        """Of a strategy on some of the samples that were held back; what is not finite counts as -1."""
        return self._on(strategy, part).similarities

    def _on(self, strategy: Strategy, part: range) -> Evaluation:
        assert isinstance(self.evaluator, SamplingEvaluator)
        return self.evaluator.evaluate_on(strategy, part)
