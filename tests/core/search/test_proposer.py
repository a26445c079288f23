# ruff: noqa: NPY002 (the global generator is what is tested)
"""Proposals: a pure function of seed and data, new points, better than random ones."""

import contextlib
import warnings

import numpy as np
import pytest

from core.search.synthetic import Synthetic
from vflowopt.search import random_search, search
from vflowopt.search.proposer import GRID, BayesianProposer, UniformProposer, seeded
from vflowopt.search.result import HistoryEntry
from vflowopt.search.surface import Surface, loss, without_outliers
from vflowopt.strategies.space import PAPER, SearchSpace

SPACE = SearchSpace.of(0.25, 9, fixed={**PAPER, "entropy_weight": 0.0})
"""Two splits, threshold and cell."""
WHOLE = SearchSpace.of(0.25, 9)


def entries(points, scores, space=SPACE, budgets=(0.25,)):
    points = [tuple(map(float, point)) for point in points]
    return [
        HistoryEntry(
            index=index, origin="initial", unit=point, budget=budgets[index % len(budgets)],
            strategy=space.to_strategy(point), score=score, retention=0.25,
        )
        for index, (point, score) in enumerate(zip(points, scores, strict=True))
    ]  # fmt: skip


def evaluated(count=12, seed=0, space=SPACE, budgets=(0.25,)):
    points = np.random.default_rng(seed).uniform(size=(count, space.dimensions))
    return entries(points, (0.9 - ((points[:, :4] - 0.3) ** 2).sum(axis=1)).tolist(), space, budgets)


def proposer(seed=0, initial=5, starts=(), space=SPACE, budgets=(0.25,)):
    return BayesianProposer(space, budgets, seed, initial, starts)


def test_a_proposal_is_a_pure_function_of_seed_and_data():
    history, (first, second, other) = evaluated(), [proposer(seed) for seed in (1, 1, 2)]
    second.propose(evaluated(20, seed=4), 0.25)  # whatever it did before
    np.random.seed(99)
    assert first.propose(history, 0.25) == second.propose(history, 0.25)
    assert first.propose(history, 0.25).origin == "search"
    assert other.propose(history[:1], 0.25) != first.propose(history[:1], 0.25)


def test_scores_that_differ_by_rounding_lead_to_the_same_point():
    history = evaluated(16, space=WHOLE)
    noise = np.random.default_rng(3).uniform(-1e-7, 1e-7, size=16)
    shifted = entries(
        [entry.unit for entry in history], [round(e.score, 4) + n for e, n in zip(history, noise, strict=True)], WHOLE
    )
    rounded = entries([entry.unit for entry in history], [round(entry.score, 4) for entry in history], WHOLE)
    assert proposer(space=WHOLE).propose(shifted, 0.25) == proposer(space=WHOLE).propose(rounded, 0.25)


@pytest.mark.parametrize("count", [0, 3, 12])
def test_the_global_generator_is_left_alone(count):
    np.random.seed(7)
    before = np.random.get_state()
    proposer().propose(evaluated(count), 0.25)
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
    starts = [("a", (0.0,) * 4), ("b", (0.5,) * 4)]
    own, history = proposer(initial=4, starts=starts), []
    for index in range(5):
        proposal = own.propose(history, 0.25)
        assert (proposal.expected is None) == (index < 4)
        new = entries([proposal.point], [0.9 - sum(proposal.point) / 10])[0]
        history.append(HistoryEntry(**{**new.__dict__, "index": index, "origin": proposal.origin}))
    assert [entry.origin for entry in history] == ["start:a", "start:b", "initial", "initial", "search"]
    points = [entry.unit for entry in history]
    assert points[:2] == [point for _, point in starts]
    assert len(set(points)) == 5
    assert all(0 <= value <= 1 for point in points for value in point)
    assert all(value % GRID == 0 for value in points[4])


def test_the_uniform_design_is_uniform():
    own = UniformProposer(SPACE, 0)
    draws = np.array([own.propose([None] * index, 0.25).point for index in range(200)])
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.08)
    np.testing.assert_allclose(np.abs(np.corrcoef(draws.T) - np.eye(4)).max(), 0, atol=0.25)


@pytest.mark.parametrize("budgets", [(0.25,), (0.5, 0.25, 0.1)])
def test_expected_improvement_goes_to_the_optimum(budgets):
    found = proposer(budgets=budgets).propose(evaluated(40, budgets=budgets), 0.25)
    assert np.abs(np.array(found.point) - 0.3).max() < 0.2


def test_expected_improvement_finds_the_best_name():
    """Only one separators choice and one scorer are good: both are found, and what means nothing there stays 0."""
    rng = np.random.default_rng(0)
    points = rng.uniform(size=(40, WHOLE.dimensions))
    strategies = [WHOLE.to_strategy(point) for point in points]
    good = [(s.separators == "rank") + (s.scorer.component_name() == "scope") for s in strategies]
    history = entries(map(WHOLE.canonical, points), [0.5 + 0.2 * value for value in good], WHOLE)
    found = proposer(space=WHOLE).propose(history, 0.25)
    strategy = WHOLE.to_strategy(found.point)
    assert (strategy.separators, strategy.scorer.component_name()) == ("rank", "scope")
    named = dict(zip(WHOLE.names, found.point, strict=True))
    assert named["threshold"] == named["entropy_weight"] == named["diversity"] == 0.0


@pytest.mark.parametrize(
    "scores", [[0.97] * 12, [0.97] * 11 + [-1.0], [0.0] * 12, [0.97 + 1e-15 * i for i in range(12)], [-1.0] * 12]
)
@pytest.mark.parametrize("budgets", [(0.25,), (0.5, 0.1)])
def test_degenerate_scores_still_give_a_new_point(scores, budgets):
    history = entries([entry.unit for entry in evaluated()], scores, budgets=budgets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = proposer(budgets=budgets).propose(history, budgets[0])
    assert np.isfinite(found.point).all()
    assert found.expected >= 0
    assert found.point not in [entry.unit for entry in history]


def test_near_duplicate_points_are_no_trouble():
    history = evaluated()
    points = [entry.unit for entry in history]
    points += [tuple(min(v + 1e-13, 1.0) for v in point) for point in points]
    found = proposer().propose(entries(points, [entry.score for entry in history] * 2), 0.25)
    assert np.isfinite(found.point).all()


def test_a_known_point_is_not_proposed_again():
    """The best corner is known without a doubt, and Expected Improvement would still go there."""
    space = SearchSpace.of(0.25, 9, stages=(0,), fixed={**PAPER, "entropy_weight": 0.0, "cell": 1.0})
    points = [(0.0,), *np.random.default_rng(0).uniform(size=(15, 1)).tolist()]
    found = proposer(space=space).propose(entries(points, [1.0 - 0.5 * p[0] for p in points], space), 0.25)
    assert found.origin == "search"
    assert found.point not in [tuple(point) for point in points]


def test_outliers_are_pulled_in_and_others_are_not():
    losses = np.array([loss(score) for score in (0.95, 0.96, 0.97, 0.98, 0.99, -1.0)])
    pulled = without_outliers(losses)
    np.testing.assert_array_equal(pulled[:5], losses[:5])
    assert losses[0] < pulled[5] < losses[5]


def test_the_model_sees_outliers_pulled_in():
    history = evaluated()
    scores = [entry.score for entry in history]
    losses = np.array([loss(score) for score in [*scores[:4], -9.0, *scores[5:]]])
    pulled = 1.0 - np.exp(without_outliers(losses))
    points = [entry.unit for entry in history]
    wild, tame = ([*scores[:4], value, *scores[5:]] for value in (-9.0, pulled[4].item()))
    assert pulled[4] > -9.0
    first, second = (proposer().propose(entries(points, one), 0.25) for one in (wild, tame))
    assert first.point == second.point


def test_the_surface_tells_budgets_from_each_other_and_one_from_another():
    """The same points at two budgets: the level differs, the best point is the same, also for a budget in between."""
    points = np.random.default_rng(0).uniform(size=(30, 4))
    losses = 0.01 + ((points - 0.3) ** 2).sum(axis=1)
    scores = [1.0 - value * (1.0 if index % 2 == 0 else 4.0) for index, value in enumerate(losses.tolist())]
    surface = Surface(SPACE, (0.5, 0.1), entries(points, scores, budgets=(0.5, 0.1)))
    best = np.array([[0.3] * 4])
    means = {budget: surface.at(budget).predict_noiseless(best)[0].item() for budget in (0.5, 0.224, 0.1)}
    assert means[0.5] < means[0.224] < means[0.1]
    for budget in means:
        predicted = surface.losses(budget)
        assert np.corrcoef(np.log(predicted), np.log(losses))[0, 1] > 0.95


def test_the_search_beats_random_search_on_the_median():
    """The same number of evaluations, all variables, no built-in starts to help, noise that hides small differences."""
    bayesian, random = [], []
    for seed in range(5):
        evaluator = Synthetic(noise=0.05)
        found = search(evaluator, 0.25, iterations=25, initial=8, seed=seed, starts=())
        drawn = random_search(evaluator, 0.25, evaluations=33, seed=seed)
        assert len(found.history) == len(drawn.history)
        bayesian.append(1.0 - evaluator.true(found.strategy))
        random.append(1.0 - evaluator.true(drawn.strategy))
    assert np.median(bayesian) < 0.6 * np.median(random)
