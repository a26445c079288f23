"""A Gaussian process for Emukit: ARD Matern-5/2, standardised outputs, priors on the hyper-parameters.

Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2.2, 4.2, 5.4.1. Inputs are expected in the unit
cube. Hyper-parameters are the maximum a posteriori of a few fixed starting points, so that a fit depends on the data
alone. Shapes: X [n, d], Y [n, 1].

An input may be a category: two of them are as far apart as any other two. One may mean nothing where another one has
some value, and is then taken for 0. One may carry a trend: outputs then rise or fall with it linearly, at no cost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from emukit.core.interfaces import IDifferentiable, IModel, IModelWithNoise
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

Floats = npt.NDArray[np.float64]

# Normal priors on the logarithms: length scales of about half the cube's diagonal (one prior for each input), signal
# variance of about that of the standardised outputs, noise of a few percent of it that may well be far less or more.
LENGTH_PRIOR = (np.log(0.5), 0.8)
"""Of one input. Points of a cube of d dimensions lie sqrt(d) times as far apart, and length scales grow with that:
otherwise nothing would tell of anything else, and a search would only visit corners (Hvarfner et al., *Vanilla Bayesian
Optimization Performs Great in High Dimensions*, ICML 2024)."""
SIGNAL_PRIOR = (0.0, 1.0)
NOISE_PRIOR = (np.log(1e-2), 2.0)
LENGTH_BOUNDS = (np.log(0.05), np.log(20.0))
SIGNAL_BOUNDS = (np.log(0.02), np.log(50.0))
NOISE_BOUNDS = (np.log(1e-6), np.log(2.0))  # the lower end keeps near-duplicate points positive definite
STARTS = ((0.5, 1e-2), (0.2, 1e-3), (1.5, 1e-1))
"""Length scale of one input, and noise variance, from which each fit starts."""

STEPS = 50
"""Most steps of a fit from one start."""

TREND = 10.0
"""Variance of a trend's slope, of standardised outputs: large, so that the data alone say what it is."""

SQRT5 = np.sqrt(5.0)


@dataclass(frozen=True)
class Inputs:
    """What the inputs mean.

    Attributes:
        categories: of each input how many values it takes, cut from [0, 1] in equal parts; 1 for a number.
        active: for points [n, d], which of their inputs mean something [n, d].
        trend: whether the last input carries a trend.
    """

    categories: Sequence[int]
    active: Callable[[Floats], npt.NDArray[np.bool_]] | None = None
    trend: bool = False

    @classmethod
    def numbers(cls, dimensions: int) -> "Inputs":
        """Numbers that always mean something."""
        return cls((1,) * dimensions)

    @property
    def is_category(self) -> npt.NDArray[np.bool_]:
        """Which inputs are categories [d]."""
        return np.asarray(self.categories) > 1

    def placed(self, X: Floats) -> tuple[Floats, Floats]:
        """Points as distances see them [n, d], and 1 where moving an input moves a point, else 0 [n, d]."""
        active = np.ones(X.shape, dtype=bool) if self.active is None else self.active(X)
        counts, is_category = np.asarray(self.categories), self.is_category
        placed = np.where(is_category, np.minimum(np.floor(X * counts), counts - 1), X)
        return np.where(active, placed, 0.0), (active & ~is_category).astype(np.float64)

    def differences(self, A: Floats, B: Floats) -> Floats:
        """Of placed points, [m, n, d]; 1 between different categories."""
        found = A[:, None, :] - B[None, :, :]
        return np.where(self.is_category, (found != 0).astype(np.float64), found)


class GaussianProcess(IModel, IDifferentiable, IModelWithNoise):  # type: ignore[misc]  # Emukit is untyped
    """Implements Emukit's ``IModel``, ``IDifferentiable`` and ``IModelWithNoise``; outputs are to be minimised.

    Args:
        X: inputs in the unit cube [n, d].
        Y: outputs [n, 1], finite; a constant output is fine.
        inputs: what the inputs mean; by default numbers.
    """

    def __init__(self, X: npt.ArrayLike, Y: npt.ArrayLike, inputs: Inputs | None = None) -> None:
        self._inputs = inputs
        self.set_data(X, Y)

    @property
    def X(self) -> Floats:  # noqa: N802
        """Inputs [n, d]."""
        return self._x

    @property
    def Y(self) -> Floats:  # noqa: N802
        """Outputs [n, 1]."""
        return self._y

    def set_data(self, X: npt.ArrayLike, Y: npt.ArrayLike) -> None:
        """Replace the data; hyper-parameters go back to the middle of their priors."""
        self._x = np.array(X, dtype=np.float64, ndmin=2)
        self._y = np.array(Y, dtype=np.float64, ndmin=2)
        self.inputs = self._inputs or Inputs.numbers(self._x.shape[1])
        self._placed, _ = self.inputs.placed(self._x)
        self._offset, spread = float(self._y.mean()), float(self._y.std())
        # Outputs that differ by rounding only carry no signal that would be worth scaling up.
        self._scale = spread if spread > 1e-10 * (1.0 + abs(self._offset)) else 1.0
        self._target = (self._y[:, 0] - self._offset) / self._scale
        dimensions = self._x.shape[1]
        self._stretch = 0.5 * np.log(dimensions)
        prior = [(LENGTH_PRIOR[0] + self._stretch, LENGTH_PRIOR[1])] * dimensions + [SIGNAL_PRIOR, NOISE_PRIOR]
        self._prior_mean, self._prior_sd = np.array(prior).T
        self.set_hyperparameters(self._prior_mean)

    def set_hyperparameters(self, theta: npt.ArrayLike) -> None:
        """Set log length scales [d], log signal variance and log noise variance (of standardised outputs)."""
        self.theta = np.array(theta, dtype=np.float64)
        self._factor = np.linalg.cholesky(self._covariance(self.theta)[0] + self._trend(self._x))
        self._weights = cho_solve((self._factor, True), self._target)

    def _covariance(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """K [n, n] with noise, without trend; its slope factor; squared scaled differences [n, n, d]."""
        squares = (self.inputs.differences(self._placed, self._placed) / np.exp(theta[:-2])) ** 2
        kernel, slope = matern52(np.sqrt(squares.sum(-1)), np.exp(theta[-2]))
        return kernel + np.exp(theta[-1]) * np.eye(len(kernel)), slope, squares

    def _trend(self, X: Floats) -> Floats:
        """Covariance of points with the data that the trend adds [m, n]."""
        centred = X[:, -1] - 0.5, self._x[:, -1] - 0.5
        return TREND * np.outer(*centred) if self.inputs.trend else np.zeros((len(X), len(self._x)))

    def loss(self, theta: Floats) -> tuple[float, Floats]:
        """Negative log posterior of hyper-parameters, up to a constant, and its gradient [d + 2]."""
        covariance, slope, squares = self._covariance(theta)
        factor = np.linalg.cholesky(covariance + self._trend(self._x))
        weights = cho_solve((factor, True), self._target)
        outer = cho_solve((factor, True), np.eye(len(factor))) - np.outer(weights, weights)
        noise = np.exp(theta[-1])
        signal = covariance - noise * np.eye(len(factor))
        likelihood_gradient = 0.5 * np.concatenate(
            [
                np.einsum("ij,ij,ijk->k", outer, slope, squares),
                [np.sum(outer * signal), noise * np.trace(outer)],
            ]
        )
        shift = (theta - self._prior_mean) / self._prior_sd
        value = 0.5 * self._target @ weights + np.log(np.diag(factor)).sum() + 0.5 * shift @ shift
        return float(value), likelihood_gradient + shift / self._prior_sd

    def optimize(self) -> None:
        """Set the hyper-parameters to the best maximum a posteriori found."""
        dimensions = self._x.shape[1]
        bounds = [LENGTH_BOUNDS] * dimensions + [SIGNAL_BOUNDS, NOISE_BOUNDS]
        best: Any = None
        for length, noise in STARTS:
            start = np.array([np.log(length) + self._stretch] * dimensions + [0.0, np.log(noise)])
            found = minimize(self.loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
            if best is None or found.fun < best.fun:
                best = found
        self.set_hyperparameters(best.x)

    def _cross(self, X: Floats) -> tuple[Floats, Floats]:
        """Covariance with the data [m, n], without trend, and its gradient with respect to the inputs [m, n, d]."""
        placed, moves = self.inputs.placed(X)
        lengths = np.exp(self.theta[:-2])
        differences = self.inputs.differences(placed, self._placed) / lengths
        kernel, slope = matern52(np.sqrt((differences**2).sum(-1)), np.exp(self.theta[-2]))
        return kernel, -slope[:, :, None] * differences / lengths * moves[:, None, :]

    def predict_noiseless(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Mean and variance of the function itself, each [m, 1]."""
        points = np.atleast_2d(np.asarray(X, dtype=np.float64))
        kernel = self._cross(points)[0] + self._trend(points)
        explained = solve_triangular(self._factor, kernel.T, lower=True)
        prior = np.exp(self.theta[-2]) + (TREND * (points[:, -1] - 0.5) ** 2 if self.inputs.trend else 0.0)
        variance = prior - (explained**2).sum(0)
        mean = self._offset + self._scale * (kernel @ self._weights)
        # Expected Improvement divides by the deviation: rounding must not make it zero.
        return mean[:, None], self._scale**2 * np.maximum(variance, 1e-12)[:, None]

    def predict(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Mean and variance of an observation, each [m, 1]."""
        mean, variance = self.predict_noiseless(X)
        return mean, variance + self._scale**2 * np.exp(self.theta[-1])

    def get_prediction_gradients(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Gradients of mean and variance with respect to the inputs, each [m, d]; noise changes neither.

        That of an input that carries a trend is without the trend: whoever moves points leaves this one where it is.
        """
        points = np.atleast_2d(np.asarray(X, dtype=np.float64))
        kernel, kernel_gradient = self._cross(points)
        solved = cho_solve((self._factor, True), (kernel + self._trend(points)).T)
        mean = np.einsum("mnd,n->md", kernel_gradient, self._weights)
        variance = -2.0 * np.einsum("mnd,nm->md", kernel_gradient, solved)
        return self._scale * mean, self._scale**2 * variance


def matern52(distance: Floats, signal: float) -> tuple[Floats, Floats]:
    """Matern-5/2 covariance at scaled distances, and -k'(r) / r, which both gradients need and is finite at 0."""
    decay = signal * np.exp(-SQRT5 * distance)
    linear = 1.0 + SQRT5 * distance
    return decay * (linear + 5.0 / 3.0 * distance**2), decay * linear * 5.0 / 3.0
