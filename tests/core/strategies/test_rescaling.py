"""Strategies brought to another budget or decoder: the budget is met, and the shape of the split survives."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vflowopt import Progressive, Provenance, Strategy
from vflowopt.errors import BudgetError, StrategyError
from vflowopt.methods import DivPrune
from vflowopt.strategies.rescaling import at_budget

ratios = st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4)


@st.composite
def schedules(draw):
    layers = draw(st.integers(4, 40))
    retention = draw(ratios)
    stages = draw(st.sets(st.integers(0, layers - 1), min_size=len(retention), max_size=len(retention)))
    return layers, Progressive(stages=tuple(sorted(stages)), retention=tuple(retention))


@given(schedules(), st.floats(0.001, 1.0))
def test_the_budget_is_met_by_a_common_factor(case, budget):
    layers, schedule = case
    strategy = Strategy(scorer=DivPrune(), schedule=schedule)
    if budget < schedule.stages[0] / layers + 1e-4:
        budget = schedule.stages[0] / layers + 1e-4
    found = at_budget(strategy, budget, layers)
    assert found.scorer == DivPrune()
    assert found.schedule.stages == schedule.stages
    assert found.average_retention(layers) == pytest.approx(budget, abs=1e-9)
    cumulative = np.array(found.schedule.cumulative)
    free = (cumulative > 1.001e-6) & (cumulative < 1 - 1e-9)
    factors = (cumulative / schedule.cumulative)[free]
    np.testing.assert_allclose(factors, factors.max(initial=0.0), rtol=1e-6)


@given(schedules(), schedules())
def test_other_stages_retain_what_the_same_depth_did(case, other):
    """The average retention of a profile resampled over other stages is the integral of the profile, up to clipping."""
    layers, schedule = case
    depth, wanted = other[0], other[1].stages
    strategy = Strategy(scorer=DivPrune(), schedule=schedule, provenance=Provenance(num_layers=layers))
    budget = max(0.3, wanted[0] / depth + 1e-3)
    found = at_budget(strategy, budget, depth, wanted)
    assert found.schedule.stages == wanted
    assert found.average_retention(depth) == pytest.approx(budget, abs=1e-9)


def test_a_profile_over_half_the_depth_is_two_stages_of_one():
    """Stages 0 and 4 of 8 layers seen from stages 0, 2, 4, 6 of 8: each half is split in two equal ones."""
    strategy = Strategy(scorer=DivPrune(), schedule=Progressive(stages=(0, 4), retention=(0.4, 0.5)))
    found = at_budget(strategy, 0.3, 8, (0, 2, 4, 6))
    np.testing.assert_allclose(found.schedule.cumulative, (0.4, 0.4, 0.2, 0.2))
    joined = at_budget(strategy, 0.3, 8, (0,))
    np.testing.assert_allclose(joined.schedule.cumulative, (0.3,))
    later = Strategy(scorer=DivPrune(), schedule=Progressive(stages=(4,), retention=(0.5,)))
    np.testing.assert_allclose(at_budget(later, 0.75, 8, (0, 4)).schedule.cumulative, (1.0, 0.5))


def test_default_stages_follow_the_depth():
    strategy = Strategy.vflowopt(num_layers=28, retention=(0.4, 0.5, 0.5))
    known = strategy.with_provenance(Provenance(num_layers=28))
    assert at_budget(known, 0.25, 9).schedule.stages == (0, 3, 6)
    assert at_budget(strategy, 0.25, 28).schedule.stages == (0, 9, 18)
    with pytest.raises(StrategyError, match="beyond the last decoder layer"):
        at_budget(strategy, 0.25, 9)


def test_budgets_that_cannot_be_met_are_refused():
    strategy = Strategy(scorer=DivPrune(), schedule=Progressive(stages=(4,), retention=(0.5,)))
    with pytest.raises(BudgetError, match=r"use 0\.5000 already"):
        at_budget(strategy, 0.4, 8)
    with pytest.raises(BudgetError, match="average retention"):
        at_budget(strategy, 0.0, 8)
