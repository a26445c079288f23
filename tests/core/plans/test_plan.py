"""Plans over all stages: their exact content and the invariants that any plan satisfies."""

import itertools
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oracles import pruning as oracle
from support.backends import both_backends, host, to_backend
from vflowopt import GridRecycler, Strategy, TokenLayout
from vflowopt.errors import ImportanceError
from vflowopt.plans.plan import StageMerge
from vflowopt.plans.planning import make_plan
from vflowopt.testing import pruning_cases, seeds

recycled_or_not = pytest.mark.parametrize("recycled", [False, True], ids=["dropping", "recycling"])


def plan_of(case, recycled, backend="numpy", importance=None):
    importance = case.importance if importance is None else importance
    recycler = GridRecycler(cell=case.side) if recycled else None
    return make_plan(
        to_backend(importance, backend), case.layout, case.stages, case.counts, recycler, separators=case.separators
    )


def oracle_of(case, recycled):
    side = case.side if recycled else None
    return oracle.stages(case.importance, case.position, case.separators, case.counts, side)


def kept_sets(plan):
    return [set(host(kept).tolist()) for kept in plan.kept]


def cells_are_apart(case, scale=1e-5):
    """Whether the choice of cells, where there is one, does not hang on the rounding of sums."""
    return oracle_of(case, recycled=True)[0].margin > scale


@both_backends
@recycled_or_not
@given(case=pruning_cases(exact=True))
def test_every_stage_agrees_with_the_oracle(backend, recycled, case):
    plan, expected = plan_of(case, recycled, backend), oracle_of(case, recycled)
    assert kept_sets(plan) == [outcome.retained for outcome in expected]
    merges = [StageMerge(plan.anchor, plan.weight), *(plan.later.get(stage) for stage in range(1, len(case.counts)))]
    for outcome, merge in zip(expected, merges, strict=True):
        if merge is not None:
            assert host(merge.anchor).tolist() == list(outcome.anchor.values())
            np.testing.assert_allclose(host(merge.weight), list(outcome.weight.values()), rtol=1e-6, atol=1e-12)
        else:
            assert all(head in (i, -1) for i, head in outcome.anchor.items())


@both_backends
@recycled_or_not
@given(case=pruning_cases())
def test_counts_nesting_and_partition(backend, recycled, case):
    plan = plan_of(case, recycled, backend)
    kept = kept_sets(plan)
    assert plan.counts == case.counts == tuple(map(len, kept))
    assert all(later <= earlier for earlier, later in itertools.pairwise(kept))
    assert all((np.diff(host(indices)) > 0).all() for indices in plan.kept)

    anchor, weight = host(plan.anchor), host(plan.weight)
    itself = np.arange(plan.tokens)
    first, merged, dropped = anchor == itself, (anchor != itself) & (anchor >= 0), anchor == -1
    assert (first.astype(int) + merged + dropped == 1).all()
    assert set(np.flatnonzero(first)) == kept[0]
    assert set(anchor[merged]) <= kept[0]
    assert (weight[dropped] == 0).all()
    for head in kept[0]:
        assert weight[anchor == head].sum() == pytest.approx(1, rel=1e-5)
    if not recycled:
        assert not merged.any() or case.separators == "merge"

    fates = plan.fates()
    assert {i for i, fate in enumerate(fates) if fate == "kept"} == kept[-1]
    assert {i for i, fate in enumerate(fates) if fate == "merged"} == set(np.flatnonzero(plan.is_merged()))
    assert set(np.flatnonzero(merged)) <= set(np.flatnonzero(plan.is_merged()))
    assert set(fates) <= {"kept", "merged", "dropped"}


@given(case=pruning_cases())
def test_a_plan_describes_its_unit(case):
    plan = plan_of(case, recycled=True)
    assert plan.tokens == case.layout.tokens
    assert plan.boundaries == case.stages
    np.testing.assert_array_equal(plan.structural, case.layout.structural)
    np.testing.assert_array_equal(plan.position, case.layout.position)
    patches = ~case.layout.structural
    np.testing.assert_array_equal(plan.importance[patches], case.importance[patches])
    assert case.separators == "rank" or (plan.importance[~patches] == 0).all()
    assert plan.recycled or case.counts[0] == case.layout.tokens or not patches.all()
    assert plan.is_identity == all(count == case.layout.tokens for count in case.counts)
    layers = case.stages[-1] + 2
    seen = [max((s for s, start in enumerate(case.stages) if start <= layer), default=-1) for layer in range(layers)]
    expected = sum(plan.counts[stage] if stage >= 0 else plan.tokens for stage in seen) / layers / plan.tokens
    assert plan.achieved_retention(layers) == pytest.approx(expected)


@given(case=pruning_cases(), seed=seeds)
def test_merged_embeddings_are_those_of_equation_7(case, seed):
    embeddings = np.random.default_rng(seed).normal(size=(case.layout.tokens, 3)).astype(np.float32)
    assume(case.counts[0] < case.layout.tokens and cells_are_apart(case))
    slots = plan_of(case, recycled=True).merge_embeddings(embeddings)
    outcome = oracle_of(case, recycled=True)[0]
    np.testing.assert_allclose(slots, oracle.merged_embeddings(outcome, embeddings), rtol=1e-5, atol=1e-6)
    for head in outcome.retained:
        members = [i for i, other in outcome.anchor.items() if other == head]
        assert (slots[head] >= embeddings[members].min(axis=0) - 1e-5).all()
        assert (slots[head] <= embeddings[members].max(axis=0) + 1e-5).all()


@given(case=pruning_cases())
def test_merging_identical_tokens_returns_them(case):
    plan = plan_of(case, recycled=True)
    same = np.full((case.layout.tokens, 2), [1.5, -3.0], dtype=np.float64)
    slots = plan.merge_embeddings(same)[plan.kept[0]]
    np.testing.assert_allclose(slots, same[: len(slots)], rtol=1e-5)


@recycled_or_not
@given(case=pruning_cases(), exponent=st.integers(-20, 20))
def test_scaling_importance_by_a_power_of_two_changes_nothing(recycled, case, exponent):
    plan, scaled = (
        plan_of(case, recycled),
        plan_of(case, recycled, importance=case.importance * np.float32(2**exponent)),
    )
    assert kept_sets(scaled) == kept_sets(plan)
    assert scaled.anchor.tolist() == plan.anchor.tolist()
    assert scaled.weight.tolist() == plan.weight.tolist()


@recycled_or_not
@given(case=pruning_cases(), factor=st.floats(1e-3, 1e3))
def test_scaling_importance_by_any_constant_changes_nothing_away_from_ties(recycled, case, factor):
    values = np.sort(case.importance[~case.layout.structural])
    gaps = np.diff(values)
    assume(((gaps == 0) | (gaps > 1e-5 * values[1:])).all())
    # A separator that is ranked has the mean of its row, which rounds and so may part from a token of equal worth.
    assume(case.separators != "rank" or not case.layout.structural.any())
    assume(not recycled or cells_are_apart(case))
    plan, scaled = plan_of(case, recycled), plan_of(case, recycled, importance=case.importance * np.float32(factor))
    assert kept_sets(scaled) == kept_sets(plan)
    assert scaled.anchor.tolist() == plan.anchor.tolist()
    np.testing.assert_allclose(scaled.weight, plan.weight, rtol=1e-5)


@recycled_or_not
@given(case=pruning_cases(exact=True), data=st.data())
def test_raising_the_importance_of_a_retained_token_never_drops_it(recycled, case, data):
    """Whoever is retained after a stage is still retained after it when only its own importance grows.

    With recycling as well, for kept and for recycled tokens: raising token i moves nobody else past another, so at
    most the least important kept token gives up its slot, and where cells compete, only the cell of i gains.
    """
    patches = np.flatnonzero(~case.layout.structural).tolist()
    before = kept_sets(plan_of(case, recycled))
    candidates = sorted(before[data.draw(st.integers(0, len(before) - 1))].intersection(patches))
    assume(candidates)
    token = data.draw(st.sampled_from(candidates))
    raised = case.importance.copy()
    raised[token] += data.draw(st.sampled_from([1 / 64, 1 / 32, 1 / 8, 1.0]))
    after = kept_sets(plan_of(case, recycled, importance=raised))
    assert all(token in later for earlier, later in zip(before, after, strict=True) if token in earlier)


@both_backends
@recycled_or_not
@given(case=pruning_cases())
def test_full_retention_is_the_identity(backend, recycled, case):
    importance = to_backend(case.importance, backend)
    strategy = Strategy.vflowopt(num_layers=12, retention=(1.0,) * 3, cell=case.side if recycled else None)
    plan = strategy.plan(importance, case.layout)
    everything = list(range(case.layout.tokens))
    assert plan.is_identity
    assert not plan.recycled
    assert all(host(kept).tolist() == everything for kept in plan.kept)
    assert host(plan.anchor).tolist() == everything
    assert (host(plan.weight) == 1).all()
    assert set(plan.fates()) == {"kept"}
    embeddings = np.random.default_rng(0).normal(size=(case.layout.tokens, 2))
    np.testing.assert_array_equal(plan.to_host().merge_embeddings(embeddings), embeddings)


@given(case=pruning_cases(), retention=st.tuples(*[st.floats(0.05, 1.0)] * 3))
def test_a_strategy_plans_the_counts_of_its_schedule(case, retention):
    strategy = Strategy.vflowopt(num_layers=28, retention=retention, cell=case.side)
    counts = strategy.schedule.counts(case.layout.tokens)
    plan = strategy.plan(case.importance, case.layout)
    assert plan.counts == counts
    assert plan.boundaries == (0, 9, 18)
    assert plan.achieved_retention(28) == pytest.approx(
        strategy.average_retention(28), abs=1 / case.layout.tokens + 1e-9
    )


@both_backends
@recycled_or_not
def test_one_token(backend, recycled):
    layout = TokenLayout(np.zeros((1, 3), dtype=np.int64))
    recycler = GridRecycler(cell=1.0) if recycled else None
    plan = make_plan(to_backend(np.ones(1, dtype=np.float32), backend), layout, (0, 1), (1, 1), recycler)
    assert [host(kept).tolist() for kept in plan.kept] == [[0], [0]]
    assert host(plan.anchor).tolist() == [0]


LINE = TokenLayout(np.array([(0, 0, 0), (0, 0, 1), (0, 0, 2), (-1, -1, -1)]))


@both_backends
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_importance_that_is_not_finite_is_counted(backend, bad):
    importance = to_backend(np.array([1, bad, bad, 0], dtype=np.float32), backend)
    with pytest.raises(ImportanceError, match=r"holds 2 values of 4 that are not finite.*bfloat16"):
        make_plan(importance, LINE, (0,), (2,))


@both_backends
def test_what_a_scorer_leaves_at_structural_tokens_is_ignored(backend):
    importance = to_backend(np.array([1, 3, 2, np.nan], dtype=np.float32), backend)
    plan = make_plan(importance, LINE, (0,), (2,))
    assert host(plan.kept[0]).tolist() == [1, 2]
    assert host(plan.importance).tolist() == [1, 3, 2, 0]


@both_backends
@pytest.mark.parametrize("shape", [(3,), (5,), (4, 1), (1, 4), ()])
def test_importance_of_another_shape_is_refused(backend, shape):
    importance = to_backend(np.zeros(shape, dtype=np.float32), backend)
    with pytest.raises(ImportanceError, match=re.escape(f"shape {shape}, but the unit has 4 visual tokens")):
        make_plan(importance, LINE, (0,), (2,))


def test_a_plan_reads_on_one_line():
    layout = TokenLayout(np.indices((1, 2, 4)).reshape(3, -1).T)
    plan = make_plan(np.arange(8, dtype=np.float32), layout, (0, 2), (5, 3), None)
    assert repr(plan) == "PruningPlan(8 visual tokens -> 5 from layer 0, 3 from layer 2)"
