"""The search space: everything it proposes is feasible, and everything feasible can be proposed."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.search.synthetic import grid
from vflowopt import CalibratedAttention, GridRecycler, Progressive, Strategy
from vflowopt.errors import BudgetError, InputError, StrategyError
from vflowopt.methods import FastV
from vflowopt.search.starts import known_good
from vflowopt.strategies.choices import means_something
from vflowopt.strategies.rescaling import LEAST
from vflowopt.strategies.shipped import preset_names
from vflowopt.strategies.space import PAPER, SearchSpace
from vflowopt.strategies.variables import (
    MAX_CELL,
    MAX_ENTROPY_WEIGHT,
    MAX_THRESHOLD,
    VARIABLES,
    LogScale,
    values_of,
)

shares = st.floats(0.0, 1.0)
no_samples = st.just(())


@st.composite
def spaces(draw, layouts=no_samples):
    """Any number of stages from 1 to 4, any decoder, any feasible budget."""
    layers = draw(st.integers(4, 40))
    stages = tuple(sorted(draw(st.sets(st.integers(0, layers - 1), min_size=1, max_size=4))))
    units = draw(layouts)
    smallest = SearchSpace.of(1.0, layers, units, stages).smallest_budget
    budget = draw(st.floats(smallest, 1.0))
    fixed = draw(st.dictionaries(st.sampled_from(["threshold", "entropy_weight", "diversity"]), shares, max_size=2))
    fixed |= draw(st.sampled_from([{}, {"cell": 1.0}, {"cell": 7.5}]))
    named = [{}, {"scorer": "mmr"}, {"scorer": "divprune", "mass": 0.5}, {"separators": "merge"}]
    fixed |= draw(st.sampled_from(named))
    return SearchSpace.of(budget, layers, units, stages, fixed), units


@st.composite
def spaces_and_points(draw, layouts=no_samples):
    space, units = draw(spaces(layouts))
    return space, units, draw(st.lists(shares, min_size=space.dimensions, max_size=space.dimensions))


def massless(strategy):
    """Mass looks at embeddings, which layouts alone do not have."""
    return strategy.model_copy(update={"mass": None})


@given(spaces_and_points())
def test_every_point_meets_the_budget(case):
    space, _, point = case
    strategy = space.to_strategy(point)
    assert abs(strategy.average_retention(space.num_layers) - space.budget) <= 1e-9
    assert strategy.schedule.boundaries == space.stages


grids = st.builds(grid, st.integers(1, 12), st.integers(1, 12), newline=st.booleans(), views=st.integers(1, 3))


@given(spaces_and_points(layouts=st.lists(grids, min_size=1, max_size=4)))
def test_every_point_fits_every_sample(case):
    space, units, point = case
    strategy = space.to_strategy(point)
    assert abs(strategy.average_retention(space.num_layers) - space.budget) <= 1e-9
    for unit in units:
        plan = massless(strategy).plan(np.arange(unit.tokens, dtype=np.float32), unit)
        assert plan.counts == strategy.schedule.counts(unit.tokens)
        assert strategy.recycler.cell <= max(space.max_cell, space.fixed.get("cell", 1))


@given(spaces_and_points(layouts=st.lists(grids, max_size=2)))
def test_a_strategy_is_found_again(case):
    space, _, point = case
    strategy = space.to_strategy(point)
    again = space.to_strategy(space.to_unit(strategy))
    assert again.schedule.stages == strategy.schedule.stages
    np.testing.assert_allclose(again.schedule.cumulative, strategy.schedule.cumulative, rtol=0, atol=1e-9)
    for name, value in values_of(strategy).items():
        expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-9, abs=1e-9)
        assert values_of(again)[name] == expected


@pytest.mark.parametrize("stages", [(0,), (1, 3)])
def test_nothing_ranks_anew_without_stages_before_the_decoder_and_inside(stages):
    assert SearchSpace(0.5, 9, stages).fixed == {"rescorer": "none"}
    with pytest.raises(
        StrategyError, match=r"rescorer is fixed at fastv, but of the stages .* none is inside the decoder"
    ):
        SearchSpace(0.5, 9, stages, fixed={"rescorer": "fastv"})
    assert "rescorer" not in SearchSpace(0.5, 9, (0, 3)).fixed


@given(spaces_and_points())
def test_fixed_variables_do_not_vary(case):
    space, _, point = case
    values = values_of(space.to_strategy(point))
    meaningful = {name: value for name, value in space.fixed.items() if means_something(name, values["scorer"])}
    for name, value in meaningful.items():
        assert values[name] == (value if isinstance(value, str) else pytest.approx(value))
    assert not set(space.names) & set(space.fixed)
    assert len(space.names) == space.dimensions == len(space.stages) - 1 + len(VARIABLES) - len(space.fixed)


@given(spaces_and_points())
def test_a_canonical_point_is_the_same_strategy(case):
    space, _, point = case
    canonical = space.canonical(tuple(point))
    assert space.to_strategy(canonical) == space.to_strategy(point)
    assert space.canonical(canonical) == canonical
    unit = space.to_unit(space.to_strategy(point))
    np.testing.assert_allclose(space.canonical(unit), unit, atol=1e-9)
    active = space.active(np.array([point]))[0]
    scorer = space.to_strategy(point).scorer.component_name()
    assert active.tolist() == [means_something(name, scorer) for name in space.names]


def test_the_papers_own_space_is_reachable():
    space = SearchSpace.of(0.25, 28, fixed=PAPER)
    assert space.names == ("split_1", "split_2", "threshold", "entropy_weight", "cell")
    strategy = space.to_strategy([0.5] * 5)
    assert strategy.mass is None
    assert strategy.separators == "keep"
    assert isinstance(strategy.scorer, CalibratedAttention)
    assert strategy.scorer.diversity == 0


def test_every_name_is_reached_and_has_a_part_of_the_scale():
    space = SearchSpace.of(0.25, 28)
    for name, count in (("separators", 4), ("rescorer", 2), ("scorer", 4)):
        column = space.names.index(name)
        point = np.full(space.dimensions, 0.5)
        found = []
        for share in (0.0, 0.2, 0.3, 0.6, 0.8, 1.0):
            point[column] = share
            found.append(values_of(space.to_strategy(point))[name])
        assert len(set(found)) == space.categories[column] == count
        assert found[4] == found[5]


@pytest.mark.parametrize(
    ("fixed", "message"),
    [({"t": 1.0}, "no 't'"), ({"diversity": 1.5}, "diversity from 0 to 1, not 1.5"), ({"cell": 0.5}, "cell from 1")],
)
def test_fixed_variables_that_do_not_exist_or_leave_their_scale_are_refused(fixed, message):
    with pytest.raises(StrategyError, match=message):
        SearchSpace.of(0.25, 28, fixed=fixed)


def test_a_strategy_that_differs_in_a_fixed_variable_has_no_point_until_it_is_imposed():
    space = SearchSpace.of(0.25, 28, fixed={"diversity": 0.5})
    strategy = Strategy.vflowopt(num_layers=28, retention=(0.25, 1.0, 1.0), cell=2.0)
    with pytest.raises(StrategyError, match=r"diversity fixed at 0\.5"):
        space.to_unit(strategy)
    imposed = space.impose(strategy)
    assert imposed.scorer.diversity == 0.5
    assert space.to_strategy(space.to_unit(imposed)).schedule == imposed.schedule


def test_the_whole_polytope_is_reached():
    """Splits drawn by rejection from the raw box, an independent description of the feasible set, all have a point."""
    space = SearchSpace.of(0.25, 28)
    draws = np.random.default_rng(0).uniform(size=(4000, 2))
    k1, k2 = draws[:, 0], draws.prod(axis=1)
    k3 = (0.25 * 28 - 9 * k1 - 9 * k2) / 10
    feasible = (k3 >= LEAST) & (k3 <= k2)
    assert feasible.sum() > 100
    for cumulative in np.stack([k1, k2, k3], axis=1)[feasible]:
        strategy = Strategy(
            scorer=CalibratedAttention(),
            schedule=Progressive.from_cumulative((0, 9, 18), cumulative.tolist()),
            recycler=GridRecycler(cell=2.0),
        )
        again = space.to_strategy(space.to_unit(strategy))
        np.testing.assert_allclose(again.schedule.cumulative, cumulative, atol=1e-9)


@pytest.mark.parametrize("layers", [9, 28, 32])
def test_the_corner_is_the_plain_baseline(layers):
    for budget in (0.9, 0.5, 0.25, 0.1):
        strategy = SearchSpace.of(budget, layers).to_strategy([0.0] * 10)
        assert strategy.schedule.retention == pytest.approx((budget, 1.0, 1.0), abs=1e-12)
        assert strategy.scorer == CalibratedAttention(threshold=0.0, entropy_weight=0.0)
        assert strategy.recycler == GridRecycler(cell=1.0)
        assert strategy.rescorer is None


def test_the_scales_reach_both_ends():
    strategy = SearchSpace.of(0.25, 28, fixed={"scorer": "calibrated-attention"}).to_strategy([1.0] * 9)
    assert strategy.scorer.threshold == pytest.approx(MAX_THRESHOLD)
    assert strategy.scorer.entropy_weight == pytest.approx(MAX_ENTROPY_WEIGHT)
    assert strategy.recycler.cell == pytest.approx(MAX_CELL)
    assert strategy.mass.gamma == 1.0
    assert strategy.rescorer == FastV()


@given(share=shares, low=st.floats(0.0, 5.0), span=st.floats(0.0, 1000.0))
def test_a_log_scale_is_monotone_within_its_ends_and_invertible(share, low, span):
    scale = LogScale(low, low + span, shift=1.0)
    assert scale.value(0.0) == low
    assert low <= scale.value(share / 2) <= scale.value(share) <= low + span
    assert math.isclose(scale.value(scale.unit(scale.value(share))), scale.value(share), rel_tol=1e-9)


def test_a_cell_wider_than_the_grid_is_the_grid_and_no_recycler_is_a_cell_of_one():
    layout = grid(5, 6)
    space = SearchSpace.of(0.4, 9, [layout])
    assert space.max_cell == 6
    importance = np.random.default_rng(1).permutation(30).astype(np.float32)
    for recycler in (GridRecycler(cell=15.0), None):
        given_ = Strategy.vflowopt(num_layers=9, retention=(0.4, 1.0, 1.0)).model_copy(update={"recycler": recycler})
        plan, again = (s.plan(importance, layout) for s in (given_, space.to_strategy(space.to_unit(given_))))
        for kept, kept_again in zip(plan.kept, again.kept, strict=True):
            np.testing.assert_array_equal(kept, kept_again)
        np.testing.assert_array_equal(np.where(plan.anchor >= 0, plan.anchor, -1), again.anchor)


def test_samples_set_no_floor():
    layout = grid(4, 2, newline=True)  # a third of the tokens is structural
    space = SearchSpace.of(0.1, 9, [layout])
    assert space == SearchSpace.of(0.1, 9, [grid(4, 2)])
    for point in ([0.0] * 10, [1.0] * 10):
        assert massless(space.to_strategy(point)).plan(np.arange(12, dtype=np.float32), layout).counts[-1] >= 1


def test_a_budget_used_up_before_the_first_stage_is_refused():
    with pytest.raises(BudgetError, match=r"smallest feasible budget is 0\.5001"):
        SearchSpace.of(0.4, 10, stages=[5, 7])


@pytest.mark.parametrize("budget", [0.0, -0.1, 1.1, math.nan, math.inf])
def test_a_budget_outside_its_range_is_refused(budget):
    with pytest.raises(BudgetError, match="average retention"):
        SearchSpace.of(budget, 9)


@pytest.mark.parametrize("stages", [(), (3, 3), (6, 3), (0, 9), (-1, 3)])
def test_stages_that_do_not_fit_are_refused(stages):
    with pytest.raises(StrategyError):
        SearchSpace.of(0.9, 9, stages=stages)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_shallow_decoders_have_default_stages(layers):
    space = SearchSpace.of(0.5, layers)
    assert space.to_strategy([0.5] * space.dimensions).average_retention(layers) == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("point", [[0.5] * 9, [0.5] * 11, [[0.5] * 10], [0.5] * 9 + [1.1], [math.nan] * 10])
def test_points_outside_the_cube_are_refused(point):
    with pytest.raises(InputError, match="10 numbers"):
        SearchSpace.of(0.25, 28).to_strategy(point)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": Progressive(stages=(0, 9), retention=(0.25, 1.0))}, "stages"),
        ({"schedule": Progressive(stages=(0, 9, 18), retention=(0.3, 1.0, 1.0))}, "budget"),
        ({"schedule": Progressive(stages=(0, 9, 18), retention=(7 / 9, 1e-9, 1e-9))}, "covers 1e-06 to 1"),
        ({"scorer": CalibratedAttention(threshold=61.0)}, "threshold from 0 to 60, not 61"),
        ({"scorer": CalibratedAttention(entropy_weight=1001.0)}, "entropy_weight from 0 to 1000, not 1001"),
    ],
)
def test_strategies_outside_the_space_have_no_point(change, message):
    space = SearchSpace.of(0.25, 28)
    strategy = Strategy.vflowopt(num_layers=28, retention=(0.25, 1.0, 1.0), cell=2.0)
    space.to_unit(strategy)
    with pytest.raises(StrategyError, match=message):
        space.to_unit(strategy.model_copy(update=change))


@given(spaces(layouts=st.lists(grids, max_size=2)), st.data())
def test_rescaling_keeps_the_shape_and_meets_the_budget(case, data):
    space, _ = case
    ratios = data.draw(st.lists(st.floats(0.05, 1.0), min_size=len(space.stages), max_size=len(space.stages)))
    shape = np.cumprod(ratios)
    fitted = np.array(space.fit(shape))
    retention = (space.stages[0] + fitted @ space.widths) / space.num_layers
    assert abs(retention - space.budget) <= 1e-9
    free = (fitted > LEAST) & (fitted < 1.0)
    np.testing.assert_allclose((fitted / shape)[free], (fitted / shape)[free].max(initial=0.0), rtol=1e-9)


@given(spaces(layouts=st.lists(grids, max_size=2)))
def test_known_good_starts_fit_any_space(case):
    space, units = case
    starts = known_good(space)
    assert starts[0][0] == "mean-attention"
    assert len({point for _, point in starts}) == len(starts)
    for _, point in starts:
        strategy = space.to_strategy(point)
        assert abs(strategy.average_retention(space.num_layers) - space.budget) <= 1e-9
        for unit in units:
            assert massless(strategy).plan(np.arange(unit.tokens, dtype=np.float32), unit).counts[-1] >= 1


@pytest.mark.parametrize("name", preset_names())
def test_published_presets_are_starts_at_their_budget(name):
    preset = Strategy.preset(name)
    space = SearchSpace.of(preset.provenance.budget, 28)
    points = dict(known_good(space))
    start = space.to_strategy(points[name])
    assert start.scorer.threshold == pytest.approx(preset.scorer.threshold)
    assert start.recycler.cell == pytest.approx(preset.recycler.cell)
    np.testing.assert_allclose(start.schedule.retention, preset.schedule.retention, rtol=0.03)
