"""Mass: what retained tokens stand for, against counting token by token, and what it adds to attention."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oracles import mass as oracle
from support.backends import both_backends, host, to_backend
from vflowopt import CalibratedAttention, GridRecycler, Progressive, Strategy, TokenLayout
from vflowopt.components import Mass, Reduction
from vflowopt.components.mass import ROWS, LogMass
from vflowopt.errors import InputError, StrategyError
from vflowopt.methods.sparsevlm_recycler import DensityPeaks
from vflowopt.strategies.strategy import components_of
from vflowopt.testing import host_units, pruning_strategies

CLEAR = 1e-5
"""Cosines that differ by less may be ordered by the rounding of float32."""

masses = st.builds(LogMass, gamma=st.floats(0.01, 1), weighted=st.booleans())


class Unit:
    """A scoring context of embeddings and places only."""

    def __init__(self, features, position, backend="numpy"):
        self.features = to_backend(np.asarray(features, dtype=np.float32), backend)
        self.layout = TokenLayout(np.array(position))


def row_of(tokens, structural=()):
    """Places of tokens in one row, some of them separators."""
    return [(-1, -1, -1) if token in structural else (0, 0, token) for token in range(tokens)]


def flat(budget, mass, recycler=None, stages=(0,)):
    schedule = Progressive.from_cumulative(stages, [budget] if isinstance(budget, float) else budget)
    return Strategy(scorer=CalibratedAttention(), schedule=schedule, recycler=recycler, mass=mass)


@given(data=st.data(), unit=host_units(), mass=masses)
def test_mass_agrees_with_counting_token_by_token(data, unit, mass):
    strategy = data.draw(pruning_strategies()).model_copy(update={"mass": mass})
    importance = strategy.scorer.score(unit).importance
    plan = strategy.plan(importance, unit.layout, unit)
    require_counted(plan, unit, [plan.importance] * len(plan.kept), mass)


@given(data=st.data(), unit=host_units(), mass=masses)
def test_mass_follows_what_later_stages_merge(data, unit, mass):
    strategy = data.draw(pruning_strategies())
    strategy = strategy.model_copy(update={"mass": mass, "recycler": DensityPeaks()})
    rng = np.random.default_rng(0)
    states = rng.normal(size=unit.features.shape).astype(np.float32)
    draft = strategy.draft(strategy.scorer.score(unit).importance, unit.layout, unit)
    while not draft.plan.is_complete:
        draft = draft.decide(lambda tokens: states[tokens])
    require_counted(draft.plan, unit, [draft.plan.importance] * len(draft.plan.kept), mass)


def require_counted(plan, unit, importances, mass):
    expected, margin = oracle.masses(plan, unit.features, importances, mass.weighted)
    assume(margin > CLEAR)
    assert len(plan.mass) == len(plan.bias) == len(plan.kept)
    for kept, found, bias, wanted in zip(plan.kept, plan.mass, plan.bias, expected, strict=True):
        assert found.dtype == bias.dtype == np.float32
        np.testing.assert_allclose(found, [wanted[token] for token in kept.tolist()], rtol=1e-5)
        np.testing.assert_allclose(bias, mass.gamma * np.log([wanted[token] for token in kept.tolist()]), atol=1e-5)


@given(data=st.data(), unit=host_units())
def test_no_token_is_lost_or_counted_twice(data, unit):
    """Nobody's mass is created, and only that of separators, or of a unit of which no other token is left, goes."""
    strategy = data.draw(pruning_strategies()).model_copy(update={"mass": LogMass(gamma=1)})
    plan = strategy.plan(strategy.scorer.score(unit).importance, unit.layout, unit)
    for kept, mass in zip(plan.kept, plan.mass, strict=True):
        assert (mass >= 1).all()
        if not plan.structural.all() and plan.structural[kept].all():
            assert mass.sum() <= plan.tokens
        else:
            lost = plan.structural.sum() - plan.structural[kept].sum()
            assert mass.sum() <= plan.tokens
            # A separator that competes may have been merged with others before it goes.
            assert mass.sum() >= plan.tokens - lost or (strategy.separators == "rank" and strategy.recycler)
            assert strategy.recycler or strategy.separators == "merge" or mass.sum() == plan.tokens - lost


@both_backends
def test_a_pruned_token_counts_for_the_nearest_that_is_left(backend):
    features = [(1, 0), (0, 1), (0.9, 0.1), (0.2, 5), (3, 1)]
    unit = Unit(features, row_of(5), backend)
    plan = flat(0.4, LogMass(gamma=0.5)).plan(to_backend(np.float32([9, 8, 1, 2, 3]), backend), unit.layout, unit)
    assert host(plan.kept[0]).tolist() == [0, 1]
    assert host(plan.mass[0]).tolist() == [3, 2]
    np.testing.assert_allclose(host(plan.bias[0]), [0.5 * math.log(3), 0.5 * math.log(2)], rtol=1e-6)
    assert type(plan.mass[0]) is type(unit.features)


@both_backends
def test_importance_may_weigh_what_is_taken_over(backend):
    unit = Unit([(1, 0), (0, 1), (0.9, 0.1), (0.2, 5), (3, 1)], row_of(5), backend)
    importance = to_backend(np.float32([8, 4, 2, 1, 4]), backend)
    plan = flat(0.4, LogMass(gamma=1, weighted=True)).plan(importance, unit.layout, unit)
    assert host(plan.kept[0]).tolist() == [0, 1]
    assert host(plan.mass[0]).tolist() == [1 + 2 / 8 + 4 / 8, 1 + 1 / 4]


def test_mass_accumulates_from_stage_to_stage():
    unit = Unit([(1, 0), (0.9, 0.1), (0, 1), (0.1, 0.9)], row_of(4))
    plan = flat([0.75, 0.25], LogMass(gamma=1), stages=(0, 2)).plan(np.float32([4, 3, 2, 1]), unit.layout, unit)
    assert [mass.tolist() for mass in plan.mass] == [[1, 1, 2], [4]]


def test_a_stage_that_prunes_nothing_changes_no_mass():
    unit = Unit([(1, 0), (0.9, 0.1), (0, 1), (0.1, 0.9)], row_of(4))
    strategy = flat([1.0, 0.5, 0.5], LogMass(gamma=1), stages=(0, 2, 3))
    plan = strategy.plan(np.float32([4, 1, 3, 2]), unit.layout, unit)
    assert [mass.tolist() for mass in plan.mass] == [[1, 1, 1, 1], [2, 2], [2, 2]]


def test_merged_tokens_count_where_they_were_merged_not_where_they_are_most_alike():
    """One row of two cells of two tokens; every token is most like one of the other cell."""
    unit = Unit([(1, 0), (0, 1), (0, 1), (1, 0)], row_of(4))
    plan = flat(0.5, LogMass(gamma=1), GridRecycler(cell=2)).plan(np.float32([4, 1, 3, 2]), unit.layout, unit)
    assert plan.anchor.tolist() == [0, 0, 2, 2]
    assert plan.mass[0].tolist() == [2, 2]


@both_backends
def test_separators_stand_for_themselves(backend):
    """The pruned token is most like the separator, and still goes to the patch."""
    unit = Unit([(1, 0), (0, 1), (0, 1)], row_of(3, structural={2}), backend)
    strategy = flat(2 / 3, LogMass(gamma=1)).model_copy(update={"separators": "keep"})
    plan = strategy.plan(to_backend(np.float32([2, 1, 0]), backend), unit.layout, unit)
    assert host(plan.kept[0]).tolist() == [0, 2]
    assert host(plan.mass[0]).tolist() == [2, 1]


def reduction_of(kept, pruned, tokens, structural=(), features=None):
    features = np.eye(tokens, dtype=np.float32) if features is None else features
    anchor = np.full(tokens, -1)
    anchor[kept] = kept
    return Reduction(
        mass=np.ones(tokens, dtype=np.float32),
        kept=np.array(kept, dtype=np.int64),
        pruned=np.array(pruned, dtype=np.int64),
        anchor=anchor,
        importance=np.ones(tokens, dtype=np.float32),
        structural=np.isin(np.arange(tokens), structural),
        context=Unit(features, row_of(tokens, structural)),
    )


def test_a_separator_that_is_dropped_is_assigned_to_nobody():
    assert LogMass(gamma=1).after(reduction_of([0, 1], [2, 3], 4, structural=[3])).tolist() == [2, 1]


def test_where_only_separators_are_left_nothing_is_assigned():
    assert LogMass(gamma=1).after(reduction_of([2, 3], [0, 1], 4, structural=[2, 3])).tolist() == [1, 1]
    assert LogMass(gamma=1).after(reduction_of([], [0, 1], 2)).tolist() == []


def test_many_tokens_are_assigned_in_blocks():
    tokens, rng = 2 * ROWS + 7, np.random.default_rng(0)
    features = np.eye(3, dtype=np.float32)[rng.integers(0, 3, tokens)]
    features[:3] = np.eye(3)
    found = LogMass(gamma=1).after(reduction_of([0, 1, 2], range(3, tokens), tokens, features=features))
    assert found.tolist() == features.sum(axis=0).tolist()


def test_planning_with_mass_neither_reads_nor_needs_values(monkeypatch):
    torch = pytest.importorskip("torch")
    from vflowopt.plans import planning

    monkeypatch.setattr(planning, "check_importance", lambda importance, layout: importance)
    unit = Unit(np.ones((12, 4)), row_of(12))
    unit.features = torch.from_numpy(unit.features).to("meta")
    for mass in (LogMass(gamma=1), LogMass(gamma=1, weighted=True)):
        strategy = flat([0.5, 0.25], mass, stages=(0, 2))
        plan = strategy.plan(torch.zeros(12, device="meta"), unit.layout, unit)
        assert [tuple(found.shape) for found in (*plan.mass, *plan.bias)] == [(6,), (3,), (6,), (3,)]


def test_without_strength_nothing_is_weighed():
    unit = Unit(np.eye(4), row_of(4))
    for mass in (None, LogMass(), LogMass(gamma=0, weighted=True)):
        plan = flat(0.5, mass).plan(np.float32([4, 3, 2, 1]), unit.layout)
        assert plan.mass == plan.bias == ()
    assert LogMass().needs == frozenset()
    assert LogMass(gamma=0.1).needs == {"features", "key-bias"}


def test_mass_needs_the_units_embeddings():
    with pytest.raises(InputError, match="mass 'log-mass' looks at the embeddings of a unit: plan with"):
        flat(0.5, LogMass(gamma=1)).plan(np.ones(4, dtype=np.float32), TokenLayout(np.array(row_of(4))))


def test_mass_is_a_part_of_strategies_and_their_files():
    strategy = flat(0.5, LogMass(gamma=0.7))
    assert Strategy.parse(strategy.to_json()) == strategy
    assert '"mass": {\n  "name": "log-mass",\n  "gamma": 0.7,\n  "weighted": false\n }' in strategy.to_json()
    assert "mass" not in flat(0.5, None).to_json()
    assert components_of(strategy)[-1] is strategy.mass
    with pytest.raises(StrategyError, match="no mass is called 'heavy'; installed: log-mass"):
        Strategy.parse(strategy.to_json().replace("log-mass", "heavy"))


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_strength_is_between_0_and_1(gamma):
    with pytest.raises(StrategyError, match="gamma"):
        LogMass(gamma=gamma)


def test_others_may_weigh_differently():
    class Everywhere(Mass):
        name: str = "everywhere"

        def after(self, reduction):
            share = len(reduction.pruned) / len(reduction.kept)
            return reduction.mass[reduction.kept] + np.float32(share)

        def bias(self, mass):
            return mass - 1

    unit = Unit(np.eye(4), row_of(4))
    plan = flat(0.5, Everywhere()).plan(np.float32([4, 3, 2, 1]), unit.layout, unit)
    assert plan.mass[0].tolist() == [2, 2]
    assert plan.bias[0].tolist() == [1, 1]


def test_plans_on_the_host_keep_mass():
    torch = pytest.importorskip("torch")
    unit = Unit(np.eye(4), row_of(4), "torch")
    plan = flat(0.5, LogMass(gamma=1)).plan(torch.tensor([4.0, 3, 2, 1]), unit.layout, unit).to_host()
    assert all(isinstance(array, np.ndarray) for array in (*plan.mass, *plan.bias))
    assert plan.mass[0].tolist() == [3, 1]
