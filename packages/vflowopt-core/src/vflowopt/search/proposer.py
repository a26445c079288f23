"""Where to evaluate next: Emukit's uniform design, then Expected Improvement over the model of the surface.

A proposal is a pure function of the seed and the evaluations so far. That is all that a resumed search has, so it
proposes bit for bit what the uninterrupted one would have.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from emukit.bayesian_optimization.acquisitions.expected_improvement import MeanPluginExpectedImprovement
from emukit.core import ContinuousParameter, ParameterSpace
from emukit.core.initial_designs import RandomDesign

from vflowopt.search.gp import Floats
from vflowopt.search.result import HistoryEntry
from vflowopt.search.starts import Start
from vflowopt.search.surface import PRECISION, Slice, Surface
from vflowopt.strategies.space import Point, SearchSpace

GRID = 1 / 64
"""Proposed coordinates are multiples of this: rounding errors of another machine do not lead to other points."""

UNIFORM, NEAR, GOOD = 1000, 2000, 3
"""Candidates drawn from the whole cube and around good points; how many points are good by each measure. Gradients of
the improvement would only lead to corners of the cube, where the model knows least."""

SPREAD, MOVED = 0.1, 0.4
"""Standard deviation of a step around a good point, and the share of its coordinates that take one."""


@dataclass(frozen=True)
class Proposal:
    """A point of the unit cube that is to be evaluated.

    Attributes:
        point: its coordinates.
        origin: see :attr:`vflowopt.search.result.HistoryEntry.origin`.
        expected: by how much of its logarithm the loss is expected to fall; ``None`` if no model was asked.
    """

    point: Point
    origin: str
    expected: float | None = None


class UniformProposer:
    """Independent uniform draws: random search, and the initial design of the Bayesian search."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space, self._seed = space, seed
        self._design = RandomDesign(_cube(space.dimensions))

    def propose(self, history: Sequence[HistoryEntry], budget: float) -> Proposal:  # noqa: ARG002
        """See :meth:`vflowopt.search.loop.Proposer.propose`; only the number of evaluations matters."""
        with seeded(self._seed, len(history)):
            return Proposal(self._space.canonical(_point(self._design.get_samples(1))), "random")


class BayesianProposer:
    """The given starting points, uniform points up to ``initial``, then Expected Improvement (paper Algorithm 1).

    Args:
        space: where points lie, at whatever budget.
        budgets: average retentions that the search covers, falling.
        seed: of all random draws.
        initial: evaluations before the model is used; the starts count.
        starts: first points, by the number of the evaluation.
    """

    def __init__(
        self, space: SearchSpace, budgets: tuple[float, ...], seed: int, initial: int, starts: Sequence[Start] = ()
    ) -> None:
        self._space, self._budgets = space, budgets
        self._uniform = UniformProposer(space, seed)
        self._seed, self._initial, self._starts = seed, initial, tuple(starts)

    def propose(self, history: Sequence[HistoryEntry], budget: float) -> Proposal:
        """See :meth:`vflowopt.search.loop.Proposer.propose`."""
        index = len(history)
        if index < len(self._starts):
            name, start = self._starts[index]
            return Proposal(start, f"start:{name}")
        uniform = self._uniform.propose(history, budget)
        if index < self._initial:
            return Proposal(uniform.point, "initial")
        found, expected = self._best_expected(history, budget)
        is_known = any(entry.budget == budget and entry.unit == found for entry in history)
        return Proposal(uniform.point if is_known else found, "search", expected)

    def _best_expected(self, history: Sequence[HistoryEntry], budget: float) -> tuple[Point, float]:
        model = Surface(self._space, self._budgets, history).at(budget)
        with seeded(self._seed, len(history)):
            candidates = self._candidates(model, history, budget)
        expected = Improvement(model).evaluate(candidates)[:, 0]
        best = int(np.argmax(expected))
        on_grid = np.round(candidates[best] / GRID) * GRID
        return self._space.canonical(tuple(on_grid.tolist())), max(0.0, float(expected[best]))

    def _candidates(self, model: Slice, history: Sequence[HistoryEntry], budget: float) -> Floats:
        """Points of the whole cube, and points around those that are best by the model or by their score."""
        cube = RandomDesign(_cube(self._space.dimensions))
        scored = [entry for entry in history if entry.budget == budget] or history
        by_score = [entry.unit for entry in sorted(scored, key=lambda entry: -round(entry.score, PRECISION))[:GOOD]]
        good = np.vstack([model.X[np.argsort(model.Y[:, 0], kind="stable")[:GOOD]], by_score])
        base = good[np.arange(NEAR) % len(good)]
        steps = base + SPREAD * np.random.standard_normal(base.shape)  # noqa: NPY002
        anywhere = cube.get_samples(NEAR)
        jumps = np.where(np.asarray(self._space.categories) > 1, anywhere, np.clip(steps, 0.0, 1.0))
        moved = np.random.uniform(size=base.shape) < MOVED  # noqa: NPY002
        candidates: Floats = np.vstack([cube.get_samples(UNIFORM), np.where(moved, jumps, base)])
        return candidates


class Improvement(MeanPluginExpectedImprovement):  # type: ignore[misc]  # Emukit is untyped
    """Emukit's Expected Improvement over the best mean at an evaluated point, which is looked for once."""

    def __init__(self, model: Slice) -> None:
        super().__init__(model)
        self._least: Floats = model.Y.min(axis=0)

    def _get_y_minimum(self) -> Floats:
        return self._least


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
    """A [1, d] array as a point."""
    return tuple(row[0].tolist())
