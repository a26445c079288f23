# ruff: noqa: NPY002 (the global generator is what is tested)
"""Proposals: a pure function of seed and data, new points, better than random ones."""

import contextlib
import warnings

import numpy as np
import pytest

from core.search.synthetic import Synthetic
from vflowopt.search import random_search, search
from vflowopt.search.proposer import KNOWN, BayesianProposer, UniformProposer, seeded, without_outliers


def evaluated(count=12, dimensions=3, seed=0):
    points = np.random.default_rng(seed).uniform(size=(count, dimensions))
    return [tuple(p) for p in points.tolist()], (-((points - 0.3) ** 2).sum(axis=1)).tolist()


def test_a_proposal_is_a_pure_function_of_seed_and_data():
    points, scores = evaluated()
    first, second, other = (BayesianProposer(3, seed, 5) for seed in (1, 1, 2))
    second.propose(*evaluated(20, seed=4))  # whatever it did before
    np.random.seed(99)
    assert first.propose(points, scores) == second.propose(points, scores)
    assert first.propose(points, scores)[1] == "search"
    assert other.propose(points[:1], scores[:1]) != first.propose(points[:1], scores[:1])


@pytest.mark.parametrize("count", [0, 3, 12])
def test_the_global_generator_is_left_alone(count):
    points, scores = evaluated(count)
    np.random.seed(7)
    before = np.random.get_state()
    BayesianProposer(3, 0, 5).propose(points, scores)
    after = np.random.get_state()
    assert before[0] == after[0]
    np.testing.assert_array_equal(before[1], after[1])
    assert before[2:] == after[2:]


def test_the_global_generator_is_put_back_after_an_error():
    np.random.seed(7)
    expected = np.random.uniform()
    np.random.seed(7)
    with contextlib.suppress(RuntimeError), seeded(1):
        np.random.uniform()
        raise RuntimeError
    assert np.random.uniform() == expected


def test_order_of_the_design():
    starts = [("a", (0.0, 0.0, 0.0)), ("b", (0.5, 0.5, 0.5))]
    proposer = BayesianProposer(3, 0, 4, starts)
    points, origins = [], []
    for _ in range(5):
        point, origin = proposer.propose(points, [float(sum(p)) for p in points])
        points.append(point)
        origins.append(origin)
    assert origins == ["start:a", "start:b", "initial", "initial", "search"]
    assert points[:2] == [point for _, point in starts]
    assert len(set(points)) == 5
    assert all(0 <= value <= 1 for point in points for value in point)


def test_the_uniform_design_is_uniform():
    proposer = UniformProposer(3, 0)
    draws = np.array([proposer.propose([(0.0,) * 3] * index, [0.0] * index)[0] for index in range(200)])
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.08)
    np.testing.assert_allclose(np.abs(np.corrcoef(draws.T) - np.eye(3)).max(), 0, atol=0.25)


def test_expected_improvement_goes_to_the_optimum():
    points, scores = evaluated(30)
    found, _ = BayesianProposer(3, 0, 5).propose(points, scores)
    assert np.abs(np.array(found) - 0.3).max() < 0.15


@pytest.mark.parametrize(
    "scores", [[0.97] * 12, [0.97] * 11 + [-1.0], [0.0] * 12, [0.97 + 1e-15 * i for i in range(12)], [-1.0] * 12]
)
def test_degenerate_scores_still_give_a_new_point(scores):
    points, _ = evaluated()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        point, _ = BayesianProposer(3, 0, 5).propose(points, scores)
    assert np.isfinite(point).all()
    assert not (np.abs(np.array(points) - point) < KNOWN).all(axis=1).any()


def test_near_duplicate_points_are_no_trouble():
    points, scores = evaluated()
    points += [tuple(min(v + 1e-13, 1.0) for v in p) for p in points]
    point, _ = BayesianProposer(3, 0, 5).propose(points, scores + scores)
    assert np.isfinite(point).all()


def test_a_known_point_is_not_proposed_again():
    """The best corner is known without a doubt, and Expected Improvement would still go there."""
    points, _ = evaluated(15, 1)
    points = [(0.0,), *points]
    scores = [1.0 - 0.5 * p[0] for p in points]
    point, origin = BayesianProposer(1, 0, 5).propose(points, scores)
    assert origin == "search"
    assert min(abs(point[0] - p[0]) for p in points) >= KNOWN


def test_outliers_are_pulled_in_and_others_are_not():
    scores = np.array([0.95, 0.96, 0.97, 0.98, 0.99, -1.0])
    pulled = without_outliers(scores)
    np.testing.assert_array_equal(pulled[:5], scores[:5])
    assert 0.8 < pulled[5] < 0.95


def test_the_search_beats_random_search_on_the_median():
    """The same number of evaluations, no built-in starts to help, noise of the size of the differences near the top."""
    bayesian, random = [], []
    for seed in range(5):
        evaluator = Synthetic(noise=0.01)
        found = search(evaluator, 0.25, iterations=25, initial=8, seed=seed, starts=())
        drawn = random_search(evaluator, 0.25, evaluations=33, seed=seed)
        assert len(found.history) == len(drawn.history)
        bayesian.append(1.0 - evaluator.true(found.strategy))
        random.append(1.0 - evaluator.true(drawn.strategy))
    assert np.median(bayesian) < 0.7 * np.median(random)


def test_the_model_sees_outliers_pulled_in():
    points, scores = evaluated()
    scores[4] = -9.0
    pulled = [*scores[:4], without_outliers(np.array(scores))[4].item(), *scores[5:]]
    assert pulled[4] > -5.0
    proposer = BayesianProposer(3, 0, 5)
    assert proposer.propose(points, scores) == proposer.propose(points, pulled)
