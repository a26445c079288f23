"""Where to evaluate next: Emukit's uniform design, then Expected Improvement over the Gaussian process.

A proposal is a pure function of the seed and the evaluations so far. That is all that a resumed search has, so it
proposes bit for bit what the uninterrupted one would have.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from emukit.bayesian_optimization.acquisitions.expected_improvement import MeanPluginExpectedImprovement
from emukit.core import ContinuousParameter, ParameterSpace
from emukit.core.initial_designs import RandomDesign
from emukit.core.optimization import GradientAcquisitionOptimizer

from vflowopt.search.gp import Floats, GaussianProcess
from vflowopt.strategies.space import Point

KNOWN = 1e-3
"""Closer than this in every coordinate to an evaluated point is no new point: evaluations are deterministic."""


class UniformProposer:
    """Independent uniform draws: random search, and the initial design of the Bayesian search."""

    def __init__(self, dimensions: int, seed: int) -> None:
        self._design = RandomDesign(_cube(dimensions))
        self._seed = seed

    def propose(self, points: Sequence[Point], scores: Sequence[float]) -> tuple[Point, str]:  # noqa: ARG002
        """See :meth:`vflowopt.search.loop.Proposer.propose`; only the number of points matters."""
        with seeded(self._seed, len(points)):
            return _point(self._design.get_samples(1)), "random"


class BayesianProposer:
    """The given starting points, uniform points up to ``initial``, then Expected Improvement (paper Algorithm 1).

    Args:
        dimensions: of the unit cube.
        seed: of all random draws.
        initial: evaluations before the model is used; the starts count.
        starts: first points by name.
    """

    def __init__(self, dimensions: int, seed: int, initial: int, starts: Sequence[tuple[str, Point]] = ()) -> None:
        self._space = _cube(dimensions)
        self._uniform = UniformProposer(dimensions, seed)
        self._seed = seed
        self._initial = initial
        self._starts = tuple(starts)

    def propose(self, points: Sequence[Point], scores: Sequence[float]) -> tuple[Point, str]:
        """See :meth:`vflowopt.search.loop.Proposer.propose`."""
        index = len(points)
        if index < len(self._starts):
            name, start = self._starts[index]
            return start, f"start:{name}"
        uniform, _ = self._uniform.propose(points, scores)
        if index < self._initial:
            return uniform, "initial"
        found = self._best_expected(np.array(points), np.array(scores))
        is_known = (np.abs(np.array(points) - np.array(found)) < KNOWN).all(axis=1).any()
        return (uniform if is_known else found), "search"

    def _best_expected(self, points: Floats, scores: Floats) -> Point:
        model = GaussianProcess(points, -without_outliers(scores)[:, None])
        model.optimize()
        optimizer = GradientAcquisitionOptimizer(self._space, num_samples=1000, num_anchor=3)
        with seeded(self._seed, len(points)):
            found, _ = optimizer.optimize(MeanPluginExpectedImprovement(model))
        return _point(found)


def without_outliers(scores: Floats) -> Floats:
    """Raise scores far below the rest to Tukey's outer fence, so that one -1 does not flatten all differences.

    A sample whose similarity is not finite scores -1 while good strategies differ in the third digit.
    """
    low, high = np.quantile(scores, (0.25, 0.75))
    raised: Floats = np.maximum(scores, low - 3.0 * (high - low))
    return raised


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed NumPy's global generator, which is the only one that Emukit draws from, and put it back afterwards."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(np.random.SeedSequence(key).generate_state(4))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _cube(dimensions: int) -> ParameterSpace:
    return ParameterSpace([ContinuousParameter(f"x{index}", 0.0, 1.0) for index in range(dimensions)])


def _point(row: Floats) -> Point:
    """A [1, d] array as a point; clipped, as L-BFGS may leave its bounds by rounding."""
    return tuple(np.clip(row[0], 0.0, 1.0).tolist())
