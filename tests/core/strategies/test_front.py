"""Fronts: a strategy for any budget between their ends, and a file that says what it is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vflowopt import Provenance, Strategy
from vflowopt.errors import BudgetError, OutputError, StrategyError
from vflowopt.strategies.front import StrategyFront, strategy_at
from vflowopt.strategies.rescaling import at_budget


def one(budget, threshold, layers=9):
    strategy = Strategy.vflowopt(num_layers=layers, retention=(0.5, 0.8, 0.6), threshold=threshold, cell=3.0)
    provenance = Provenance(budget=budget, num_layers=layers, score=0.9, model="tiny")
    return at_budget(strategy, budget, layers).with_provenance(provenance)


FRONT = StrategyFront(num_layers=9, strategies=(one(0.5, 1.0), one(0.25, 2.0), one(0.1, 3.0)))


@given(st.floats(0.1, 0.5), st.sampled_from([None, 4, 9, 28]))
def test_any_budget_in_between_is_met_at_any_depth(budget, layers):
    strategy = FRONT.at(budget, layers)
    assert strategy.average_retention(layers or 9) == pytest.approx(budget, abs=1e-9)
    assert strategy.provenance.budget == pytest.approx(budget)
    assert strategy.provenance.num_layers == (layers or 9)


@pytest.mark.parametrize(("budget", "threshold"), [(0.4, 1.0), (0.3, 2.0), (0.17, 2.0), (0.15, 3.0)])
def test_the_strategy_with_the_nearest_ratio_is_brought_to_the_budget(budget, threshold):
    strategy = FRONT.at(budget)
    assert strategy.scorer.threshold == threshold
    assert strategy.provenance.score is None
    own = next(one for one in FRONT if one.scorer.threshold == threshold)
    ratio = [a / b for a, b in zip(strategy.schedule.cumulative, own.schedule.cumulative, strict=True)]
    assert ratio == pytest.approx([ratio[0]] * 3)


def test_its_own_budgets_give_its_own_strategies():
    assert [FRONT.at(budget) for budget in (0.5, 0.25, 0.1)] == list(FRONT)
    assert FRONT.budgets == pytest.approx((0.5, 0.25, 0.1))


@pytest.mark.parametrize("budget", [0.09, 0.51, 1.0])
def test_a_budget_outside_is_refused_with_both_ends(budget):
    with pytest.raises(BudgetError, match=r"from 0\.1 to 0\.5, not"):
        FRONT.at(budget)


@pytest.mark.parametrize("order", [(0.1, 0.5), (0.25, 0.25), ()])
def test_strategies_that_do_not_fall_are_refused(order):
    with pytest.raises(StrategyError):
        StrategyFront(num_layers=9, strategies=tuple(one(budget, 1.0) for budget in order))


def test_its_file(tmp_path):
    path = FRONT.save(tmp_path / "front.json")
    assert StrategyFront.load(path) == FRONT
    assert StrategyFront.is_in(path)
    assert json.loads(path.read_text())["format"] == "vflowopt/front/1"
    FRONT.save(path)
    strategy = one(0.5, 1.0).save(tmp_path / "strategy.json")
    assert not StrategyFront.is_in(strategy)
    assert not StrategyFront.is_in(tmp_path / "none.json")
    with pytest.raises(OutputError):
        FRONT.save(strategy)
    with pytest.raises(StrategyError, match="its format is 'vflowopt/strategy/1'"):
        StrategyFront.load(strategy)
    with pytest.raises(StrategyError, match="cannot read"):
        StrategyFront.load(tmp_path / "none.json")
    with pytest.raises(StrategyError, match="there is no field 'more'"):
        StrategyFront.parse(json.dumps({**json.loads(path.read_text()), "more": 1}))


def test_whatever_holds_a_strategy_has_one_for_a_budget(tmp_path):
    path = FRONT.save(tmp_path / "front.json")
    assert strategy_at(path, 0.17, 9) == strategy_at(str(path), 0.17, 9) == FRONT.at(0.17)
    strategy = one(0.25, 2.0)
    assert strategy_at(strategy, 0.25, 9) is strategy
    moved = strategy_at(strategy.save(tmp_path / "strategy.json"), 0.17, 9)
    assert moved.average_retention(9) == pytest.approx(0.17, abs=1e-9)
    assert (moved.provenance.budget, moved.provenance.score, moved.provenance.model) == (0.17, None, "tiny")
    preset = strategy_at("llava-onevision-7b/25", 0.4, 9)
    assert preset.schedule.stages == (0, 3, 6)
    assert preset.average_retention(9) == pytest.approx(0.4, abs=1e-9)
    with pytest.raises(StrategyError, match="No such file"):
        strategy_at(tmp_path / "none.json", 0.17, 9)
    with pytest.raises(BudgetError):
        strategy_at(strategy, 2.0, 9)
