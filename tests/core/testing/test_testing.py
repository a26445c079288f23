"""The strategies of ``vflowopt.testing`` make what they promise, and its properties notice what is broken."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vflowopt import PruningPlan, TokenLayout
from vflowopt.testing import (
    ConformanceError,
    attention_matrices,
    host_units,
    plans,
    pruning_strategies,
    require_valid_plan,
    scorers,
)


@given(attention_matrices())
def test_attention_is_row_stochastic(matrices):
    assert (matrices >= 0).all()
    np.testing.assert_allclose(matrices.sum(-1), 1, atol=1e-5)


@given(unit=host_units(), data=st.data())
def test_any_scorer_can_look_at_a_unit_and_any_strategy_plans_it(unit, data):
    importance = data.draw(scorers()).score(unit).importance
    assert importance.shape == (unit.layout.tokens,)
    assert (unit.to_tokens(np.ones_like(unit.entropy))[unit.layout.structural] == 0).all()
    strategy = data.draw(pruning_strategies())
    require_valid_plan(strategy.plan(importance, unit.layout, unit), strategy)


@given(plans())
def test_plans_are_plans(plan):
    assert isinstance(plan, PruningPlan)
    assert sorted(set(plan.fates())) == sorted({"kept", "merged", "dropped"} & set(plan.fates()))


STRATEGY = {
    "scorer": {"name": "uniform-grid"},
    "schedule": {"name": "progressive", "stages": [0, 2], "retention": [0.5, 0.5]},
    "recycler": {"name": "grid", "cell": 2.0},
    "separators": "keep",
}


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (lambda plan: {"kept": (plan.kept[0][1:], plan.kept[1])}, "the schedule says"),
        (lambda plan: {"kept": (plan.kept[0], np.flatnonzero(plan.anchor != np.arange(17))[:4])}, "not nested|dropped"),
        (lambda plan: {"kept": (plan.kept[0], plan.kept[0][:4])}, "retains 0 separators, not 1"),
        (lambda plan: {"importance": plan.importance * np.nan}, "not finite"),
        (lambda plan: {"anchor": np.arange(17)}, "anchors are not exactly"),
        (lambda plan: {"weight": plan.weight * 2}, "do not sum to 1"),
        (lambda plan: {"weight": -plan.weight}, "negative"),
        (lambda plan: {"recycled": False}, "nothing recycles"),
    ],
)
def test_a_broken_plan_is_noticed(broken, says):
    from vflowopt import Strategy

    layout = TokenLayout(np.array([(0, row, column) for row in range(4) for column in range(4)] + [(-1, -1, -1)]))
    strategy = Strategy.model_validate(STRATEGY)
    plan = strategy.plan(np.arange(17, dtype=np.float32), layout)
    require_valid_plan(plan, strategy)
    with pytest.raises(ConformanceError, match=says):
        require_valid_plan(replace(plan, **broken(plan)), strategy)
