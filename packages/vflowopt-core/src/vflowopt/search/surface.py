"""What a search knows of its space: a Gaussian process through everything that was evaluated, at all budgets together.

It models the logarithm of what a score lacks of 1. Halving it counts the same at every budget, and strategies that
spoil the outputs do not flatten the differences between good ones. With several budgets, the logarithm of the budget is
one more input: what was found at one tells of the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from emukit.core.interfaces import IDifferentiable, IModel, IModelWithNoise

from vflowopt.search.gp import Floats, GaussianProcess, Inputs
from vflowopt.search.result import HistoryEntry
from vflowopt.strategies.space import SearchSpace

LEAST_LOSS = 1e-5
"""Losses below this are as good as none."""

REAL = 0.5
"""How much of what the model cannot explain is no luck: strategies also differ in what a smooth surface has no room
for."""

PRECISION = 4
"""Decimal places to which scores are taken: rounding errors of another machine or number of threads do not count."""


@dataclass(frozen=True)
class Surface:
    """The model of a search's history.

    Attributes:
        space: where its points lie.
        budgets: average retentions that the search covers, falling.
        history: one or more evaluations.
    """

    space: SearchSpace
    budgets: tuple[float, ...]
    history: Sequence[HistoryEntry]

    @cached_property
    def points(self) -> Floats:
        """Of the evaluations, [n, d]."""
        return np.array([entry.unit for entry in self.history])

    @cached_property
    def process(self) -> GaussianProcess:
        """The Gaussian process, fitted: logarithms of losses over points and, if there are several, budgets."""
        several = len(self.budgets) > 1

        def active(X: Floats) -> npt.NDArray[np.bool_]:
            own = self.space.active(X[:, : self.space.dimensions])
            return np.hstack([own, np.ones((len(X), 1), dtype=bool)]) if several else own

        inputs = Inputs((*self.space.categories, 1) if several else self.space.categories, active, trend=several)
        inputs_of = np.vstack([self._with_budget(self.points[[i]], e.budget) for i, e in enumerate(self.history)])
        losses = without_outliers(np.array([loss(entry.score) for entry in self.history]))
        process = GaussianProcess(inputs_of, losses[:, None], inputs)
        process.optimize()
        return process

    def losses(self, budget: float) -> Floats:
        """What the model makes of the loss of every evaluated point at a budget [n].

        Of what an evaluation at this budget deviates from the model's mean, :data:`REAL` is taken for the strategy's
        own and the rest for the luck of the samples.
        """
        mean = self.at(budget).predict_noiseless(self.points)[0][:, 0]
        own = np.array([entry.budget == budget for entry in self.history])
        return np.exp(mean + REAL * np.where(own, self.process.Y[:, 0] - mean, 0.0))

    def at(self, budget: float) -> "Slice":
        """The model at a budget."""
        return Slice(self, budget)

    def _with_budget(self, X: Floats, budget: float) -> Floats:
        """Points with the budget's coordinate, if there are several budgets."""
        if len(self.budgets) == 1:
            return X
        low, high = self.budgets[-1], self.budgets[0]
        share = math.log(budget / low) / math.log(high / low)
        return np.hstack([X, np.full((len(X), 1), share)])


class Slice(IModel, IDifferentiable, IModelWithNoise):  # type: ignore[misc]  # Emukit is untyped
    """A surface at one budget, as Emukit's acquisitions want it: they look for the least loss."""

    def __init__(self, surface: Surface, budget: float) -> None:
        self._surface, self._budget = surface, budget

    @property
    def X(self) -> Floats:  # noqa: N802
        """All points that were evaluated, at whatever budget [n, d]: the best of them here is to be improved on."""
        return self._surface.points

    @property
    def Y(self) -> Floats:  # noqa: N802
        """What the model makes of them here [n, 1]."""
        mean, _ = self.predict_noiseless(self.X)
        return mean

    def _there(self, X: Floats) -> Floats:
        return self._surface._with_budget(X, self._budget)

    def predict(self, X: Floats) -> tuple[Floats, Floats]:
        """See :meth:`GaussianProcess.predict`."""
        return self._surface.process.predict(self._there(X))

    def predict_noiseless(self, X: Floats) -> tuple[Floats, Floats]:
        """See :meth:`GaussianProcess.predict_noiseless`."""
        return self._surface.process.predict_noiseless(self._there(X))

    def get_prediction_gradients(self, X: Floats) -> tuple[Floats, Floats]:
        """See :meth:`GaussianProcess.get_prediction_gradients`; [m, d], without the budget."""
        mean, variance = self._surface.process.get_prediction_gradients(self._there(X))
        return mean[:, : X.shape[1]], variance[:, : X.shape[1]]

    def set_data(self, X: Floats, Y: Floats) -> None:
        """A slice is of what was evaluated: Emukit does not ask for this here."""
        raise NotImplementedError

    def optimize(self) -> None:
        """A slice is fitted."""


def loss(score: float) -> float:
    """Logarithm of what a score lacks of 1, the perfect match."""
    return math.log(max(1.0 - round(score, PRECISION), LEAST_LOSS))


def without_outliers(losses: Floats) -> Floats:
    """Lower losses far above the rest to Tukey's outer fence, so that one of them does not flatten all differences.

    A sample whose similarity is not finite scores -1 while good strategies differ in the third digit.
    """
    low, high = np.quantile(losses, (0.25, 0.75))
    lowered: Floats = np.minimum(losses, high + 3.0 * (high - low))
    return lowered
