"""A Gaussian process for Emukit: ARD Matern-5/2, standardised outputs, priors on the hyper-parameters.

Rasmussen and Williams, *Gaussian Processes for Machine Learning*, 2.2, 4.2, 5.4.1. Inputs are expected in the unit
cube. Hyper-parameters are the maximum a posteriori of a few fixed starting points, so that a fit depends on the data
alone. Shapes: X [n, d], Y [n, 1].
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from emukit.core.interfaces import IDifferentiable, IModel, IModelWithNoise
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

Floats = npt.NDArray[np.float64]

# Normal priors on the logarithms: length scales of about half the cube (one prior for each input), signal variance of
# about that of the standardised outputs, noise of a few percent of it that may well be far less or more.
LENGTH_PRIOR = (np.log(0.5), 0.8)
SIGNAL_PRIOR = (0.0, 1.0)
NOISE_PRIOR = (np.log(1e-2), 2.0)
LENGTH_BOUNDS = (np.log(0.05), np.log(20.0))
SIGNAL_BOUNDS = (np.log(0.02), np.log(50.0))
NOISE_BOUNDS = (np.log(1e-6), np.log(2.0))  # the lower end keeps near-duplicate points positive definite
STARTS = ((0.5, 1e-2), (0.2, 1e-3), (1.5, 1e-1))
"""Length scale and noise variance from which each fit starts."""

SQRT5 = np.sqrt(5.0)


class GaussianProcess(IModel, IDifferentiable, IModelWithNoise):  # type: ignore[misc]  # Emukit is untyped
    """Implements Emukit's ``IModel``, ``IDifferentiable`` and ``IModelWithNoise``; outputs are to be minimised.

    Args:
        X: inputs in the unit cube [n, d].
        Y: outputs [n, 1], finite; a constant output is fine.
    """

    def __init__(self, X: npt.ArrayLike, Y: npt.ArrayLike) -> None:
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
        self._offset, spread = float(self._y.mean()), float(self._y.std())
        # Outputs that differ by rounding only carry no signal that would be worth scaling up.
        self._scale = spread if spread > 1e-10 * (1.0 + abs(self._offset)) else 1.0
        self._target = (self._y[:, 0] - self._offset) / self._scale
        prior = [LENGTH_PRIOR] * self._x.shape[1] + [SIGNAL_PRIOR, NOISE_PRIOR]
        self._prior_mean, self._prior_sd = np.array(prior).T
        self.set_hyperparameters(self._prior_mean)

    def set_hyperparameters(self, theta: npt.ArrayLike) -> None:
        """Set log length scales [d], log signal variance and log noise variance (of standardised outputs)."""
        self.theta = np.array(theta, dtype=np.float64)
        self._factor = np.linalg.cholesky(self._covariance(self.theta)[0])
        self._weights = cho_solve((self._factor, True), self._target)

    def _covariance(self, theta: Floats) -> tuple[Floats, Floats, Floats]:
        """K with noise [n, n]; its slope factor; squared scaled differences [n, n, d]."""
        squares = ((self._x[:, None, :] - self._x[None, :, :]) / np.exp(theta[:-2])) ** 2
        kernel, slope = matern52(np.sqrt(squares.sum(-1)), np.exp(theta[-2]))
        return kernel + np.exp(theta[-1]) * np.eye(len(kernel)), slope, squares

    def loss(self, theta: Floats) -> tuple[float, Floats]:
        """Negative log posterior of hyper-parameters, up to a constant, and its gradient [d + 2]."""
        covariance, slope, squares = self._covariance(theta)
        factor = np.linalg.cholesky(covariance)
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
            start = np.log([length] * dimensions + [1.0, noise])
            found = minimize(self.loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
            if best is None or found.fun < best.fun:
                best = found
        self.set_hyperparameters(best.x)

    def _cross(self, X: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
        """Covariance with the data [m, n]; its slope factor [m, n]; differences over squared lengths [m, n, d]."""
        lengths = np.exp(self.theta[:-2])
        differences = (np.atleast_2d(np.asarray(X, dtype=np.float64))[:, None, :] - self._x[None, :, :]) / lengths
        kernel, slope = matern52(np.sqrt((differences**2).sum(-1)), np.exp(self.theta[-2]))
        return kernel, slope, differences / lengths

    def predict_noiseless(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Mean and variance of the function itself, each [m, 1]."""
        kernel = self._cross(X)[0]
        explained = solve_triangular(self._factor, kernel.T, lower=True)
        variance = np.exp(self.theta[-2]) - (explained**2).sum(0)
        mean = self._offset + self._scale * (kernel @ self._weights)
        # Expected Improvement divides by the deviation: rounding must not make it zero.
        return mean[:, None], self._scale**2 * np.maximum(variance, 1e-12)[:, None]

    def predict(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Mean and variance of an observation, each [m, 1]."""
        mean, variance = self.predict_noiseless(X)
        return mean, variance + self._scale**2 * np.exp(self.theta[-1])

    def get_prediction_gradients(self, X: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Gradients of mean and variance with respect to the inputs, each [m, d]; noise changes neither."""
        kernel, slope, differences = self._cross(X)
        kernel_gradient = -slope[:, :, None] * differences
        solved = cho_solve((self._factor, True), kernel.T)
        mean = np.einsum("mnd,n->md", kernel_gradient, self._weights)
        variance = -2.0 * np.einsum("mnd,nm->md", kernel_gradient, solved)
        return self._scale * mean, self._scale**2 * variance


def matern52(distance: Floats, signal: float) -> tuple[Floats, Floats]:
    """Matern-5/2 covariance at scaled distances, and -k'(r) / r, which both gradients need and is finite at 0."""
    decay = signal * np.exp(-SQRT5 * distance)
    linear = 1.0 + SQRT5 * distance
    return decay * (linear + 5.0 / 3.0 * distance**2), decay * linear * 5.0 / 3.0
