"""Stages, exact counts and average retention (Eq. 5, Algorithm 1)."""

import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oracles import retention as oracle
from vflowopt import Progressive
from vflowopt.components.schedule import achieved_retention, check_budget, default_stages, last_ratio, stage_widths
from vflowopt.errors import BudgetError, StrategyError
from vflowopt.testing import schedules

decimals = st.integers(1, 1000).map(lambda thousandths: thousandths / 1000)


@pytest.mark.parametrize(("layers", "stages"), [(28, (0, 9, 18)), (32, (0, 10, 20)), (9, (0, 3, 6)), (3, (0, 1, 2))])
def test_default_stages(layers, stages):
    assert default_stages(layers) == stages


@given(ratios=st.lists(decimals, min_size=1, max_size=4), tokens=st.integers(1, 8000))
def test_counts_are_exact_from_the_number_of_tokens(ratios, tokens):
    expected, margin = oracle.exact_counts(ratios, tokens)
    assume(margin > 1e-9)  # at a tie the product of the ratios in float64 decides
    counts = Progressive(stages=range(len(ratios)), retention=ratios).counts(tokens)
    assert counts == expected
    assert all(a >= b for a, b in zip((tokens, *counts), counts, strict=False))


@pytest.mark.parametrize(
    ("tokens", "ratios", "counts"),
    [
        (10, (0.25,), (3,)),  # 2.5 rounds up
        (6, (0.75, 0.5), (5, 2)),  # 4.5 rounds up; 2.25 down, from the first N and not from 5
        (1, (0.5,), (1,)),
        (1, (0.49,), (1,)),  # never below 1
        (729, (1.0, 1.0, 1.0), (729, 729, 729)),
        (7290, (0.2651, 0.9833, 0.8773), (1933, 1900, 1667)),
        (0, (0.3,), (0,)),
    ],
)
def test_counts_of_known_schedules(tokens, ratios, counts):
    assert Progressive(stages=range(len(ratios)), retention=ratios).counts(tokens) == counts


@given(drawn=schedules())
def test_average_retention_is_the_mean_over_layers(drawn):
    stages, ratios, num_layers = drawn
    average = Progressive(stages=stages, retention=ratios).average_retention(num_layers)
    assert average == pytest.approx(oracle.average_retention(stages, ratios, num_layers), rel=1e-9)
    assert 0 < average <= 1 + 1e-12


@given(drawn=schedules())
def test_the_last_ratio_recovers_the_schedule_from_its_average_retention(drawn):
    stages, ratios, num_layers = drawn
    # A last stage after strong pruning hardly moves the average: what is recovered is the average.
    budget = min(1.0, Progressive(stages=stages, retention=ratios).average_retention(num_layers))
    last = last_ratio(ratios[:-1], budget, stages, num_layers)
    again = Progressive(stages=stages, retention=(*ratios[:-1], last))
    assert again.average_retention(num_layers) == pytest.approx(budget, rel=1e-12)
    assert last == pytest.approx(ratios[-1], rel=1e-6)


@given(drawn=schedules(), budget=st.floats(0.01, 1.0))
def test_the_last_ratio_meets_the_budget_or_says_that_none_does(drawn, budget):
    stages, (*ratios, _), num_layers = drawn
    least, most = (oracle.average_retention(stages, (*ratios, r), num_layers) for r in (0.0, 1.0))
    assume(min(abs(budget - least), abs(budget - most)) > 1e-9)
    if least < budget < most:
        expected = oracle.last_ratio(ratios, budget, stages, num_layers)
        assert last_ratio(ratios, budget, stages, num_layers) == pytest.approx(expected, rel=1e-6)
    else:
        with pytest.raises(BudgetError, match=re.escape(f"cannot meet an average retention of {budget}")):
            last_ratio(ratios, budget, stages, num_layers)


@given(drawn=schedules(), tokens=st.integers(1, 500))
def test_achieved_retention_is_the_mean_share_of_exact_counts(drawn, tokens):
    stages, ratios, num_layers = drawn
    counts = Progressive(stages=stages, retention=ratios).counts(tokens)
    seen = [tokens] * num_layers
    for start, count in zip(stages, counts, strict=True):
        seen[start:] = [count] * (num_layers - start)
    achieved = achieved_retention(counts, tokens, stages, num_layers)
    assert achieved == pytest.approx(sum(seen) / (tokens * num_layers), rel=1e-12)


def test_a_unit_without_tokens_is_retained_entirely():
    assert achieved_retention((0, 0), 0, (0, 2), 4) == 1.0


@given(drawn=schedules())
def test_cumulative_retention_builds_the_same_schedule(drawn):
    stages, ratios, _ = drawn
    schedule = Progressive(stages=stages, retention=ratios)
    again = Progressive.from_cumulative(stages, schedule.cumulative)
    assert again.retention == pytest.approx(ratios, rel=1e-12)


@given(budget=st.floats(0.01, 1.0), num_layers=st.integers(1, 40), stage=st.integers(0, 39))
def test_a_flat_schedule_meets_its_budget(budget, num_layers, stage):
    assume(stage < num_layers)
    if budget * num_layers - stage > 0:
        flat = Progressive.flat(budget, stage=stage, num_layers=num_layers)
        assert flat.average_retention(num_layers) == pytest.approx(budget, rel=1e-9)
    else:
        with pytest.raises(BudgetError, match=f"layer {stage} of {num_layers}"):
            Progressive.flat(budget, stage=stage, num_layers=num_layers)


def test_flat_is_before_the_llm_by_default():
    assert Progressive.flat(0.3) == Progressive(stages=(0,), retention=(0.3,))


@pytest.mark.parametrize(("stages", "layers"), [((0, 9, 28), 28), ((0, 40), 28), ((3,), 2)])
def test_a_stage_beyond_the_last_layer_is_refused(stages, layers):
    schedule = Progressive(stages=stages, retention=(0.5,) * len(stages))
    with pytest.raises(StrategyError, match=f"stage {stages[-1]} .*has {layers} layers.*at most {layers - 1}"):
        schedule.average_retention(layers)
    with pytest.raises(StrategyError, match=f"at most {layers - 1}"):
        Progressive.flat(0.9, stage=stages[-1], num_layers=layers)


def test_stage_widths_cover_the_layers():
    assert stage_widths((0, 9, 18), 28) == (9, 9, 10)
    assert stage_widths((2,), 3) == (1,)


@pytest.mark.parametrize("budget", [0, 0.0, -0.25, 1.5, 25, math.nan, math.inf, -math.inf])
def test_a_budget_outside_its_range_is_refused(budget):
    message = re.escape(f"average retention in (0, 1], for example 0.25; got {budget!r}")
    for call in (check_budget, Progressive.flat, lambda b: last_ratio((0.5,), b, (0, 2), 4)):
        with pytest.raises(BudgetError, match=message):
            call(budget)


@pytest.mark.parametrize("budget", [1e-9, 0.25, 1, 1.0])
def test_a_budget_in_range_is_returned(budget):
    assert check_budget(budget) == budget


@pytest.mark.parametrize("stages", [(), (-1, 3), (0, 0), (0, 9, 9), (9, 0), (0, 9, 5)])
def test_bad_stages_are_refused(stages):
    with pytest.raises(StrategyError, match=r"stages must be .*increasing, got " + re.escape(str(stages))):
        Progressive(stages=stages, retention=(0.5,) * len(stages))


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.0001, 25.0])
def test_ratios_out_of_range_are_refused(ratio):
    with pytest.raises(StrategyError, match=r"must lie in \(0, 1\].*" + re.escape(str(ratio))):
        Progressive(stages=(0, 1), retention=(0.5, ratio))


@pytest.mark.parametrize("ratio", [math.nan, math.inf])
def test_ratios_that_are_not_finite_are_refused(ratio):
    with pytest.raises(StrategyError, match="finite number"):
        Progressive(stages=(0,), retention=(ratio,))


def test_stages_and_ratios_must_be_as_many():
    with pytest.raises(StrategyError, match="2 stages need as many retention ratios, got 3"):
        Progressive(stages=(0, 1), retention=(0.5, 0.5, 0.5))
