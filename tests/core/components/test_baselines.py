"""Baselines: even spreading, coarse grids first, and random rankings that belong to their image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vflowopt import GridRecycler, Progressive, Strategy, TokenLayout
from vflowopt.components.baselines import LowResolution, RandomTokens, UniformGrid, spread_order
from vflowopt.plugins import component_types


class Context:
    """A scoring context that has no attention: touching it is an error."""

    def __init__(self, *grids, structural=0, seed=0):
        positions = [
            np.stack([np.full(r * c, v), *np.divmod(np.arange(r * c), c)], 1) for v, (r, c) in enumerate(grids)
        ]
        positions.append(np.full((structural, 3), -1))
        self.layout = TokenLayout(np.concatenate(positions).astype(np.int64))
        self.entropy = np.random.default_rng(seed).random((2, 9), dtype=np.float32)

    def place(self, host):
        return host


def kept(scorer, context, count):
    strategy = Strategy(scorer=scorer, schedule=Progressive(stages=(0,), retention=(count / context.layout.tokens,)))
    plan = strategy.plan(scorer.score(context).importance, context.layout)
    return plan.kept[0]


def cells(rows, columns):
    return np.stack(np.divmod(np.arange(rows * columns), columns), axis=1)


@given(st.integers(1, 30), st.integers(1, 30))
def test_the_even_order_visits_every_cell_once(rows, columns):
    assert sorted(spread_order(cells(rows, columns))) == list(range(rows * columns))


@given(st.integers(8, 30), st.integers(8, 30), st.data())
def test_every_beginning_of_the_even_order_covers_all_quarters_alike(rows, columns, data):
    count = data.draw(st.integers(8, rows * columns))
    places = cells(rows, columns)
    first = places[spread_order(places)[:count]]
    for half, size in ((first[:, 0] < rows / 2, rows), (first[:, 1] < columns / 2, columns)):
        share = -(-size // 2) / size
        assert abs(half.sum() - share * count) <= 3 + 0.06 * count


def test_the_even_order_does_not_depend_on_the_order_of_the_cells():
    places = cells(5, 7)
    shuffled = np.random.default_rng(0).permutation(places)
    assert (places[spread_order(places)] == shuffled[spread_order(shuffled)]).all()


def test_uniform_grid_shares_the_budget_in_proportion():
    context = Context((10, 10), (20, 20), structural=20)
    chosen = kept(UniformGrid(), context, 50)
    views = context.layout.position[chosen, 0]
    assert (np.bincount(views[views >= 0]) == [10, 40]).all()


@pytest.mark.parametrize("order", [((4, 4), (8, 8)), ((8, 8), (4, 4))])
def test_low_resolution_takes_the_coarsest_grid_first(order):
    context = Context(*order, structural=3)
    coarse = order.index((4, 4))
    views = context.layout.position[kept(LowResolution(), context, 16 + 8), 0]
    assert (views == coarse).sum() == 16
    assert (views == 1 - coarse).sum() == 8
    few = context.layout.position[kept(LowResolution(), context, 3 + 8), 0]
    assert (few[few >= 0] == coarse).all()


def test_low_resolution_spreads_over_equal_grids():
    context = Context((6, 6), (6, 6), (6, 6))
    views = context.layout.position[kept(LowResolution(), context, 54), 0]
    assert (np.bincount(views) == [18, 18, 18]).all()


def test_random_rankings_belong_to_image_and_seed():
    def draw(seed, image):
        return RandomTokens(seed=seed).score(Context((6, 6), seed=image)).importance

    assert (draw(1, 1) == draw(1, 1)).all()
    assert (draw(1, 1) != draw(2, 1)).any()
    assert (draw(1, 1) != draw(1, 2)).any()
    assert "entropy" in RandomTokens().needs


def test_random_selection_is_fair():
    counts = np.zeros(100)
    for image in range(400):
        counts[kept(RandomTokens(), Context((10, 10), seed=image), 25)] += 1
    assert abs(counts / 400 - 0.25).max() < 0.1


@pytest.mark.parametrize("scorer", [RandomTokens(seed=3), UniformGrid(), LowResolution()])
def test_baselines_are_components_like_any_other(scorer):
    assert component_types("scorer")[scorer.name] is type(scorer)
    schedule = Progressive(stages=(0, 2), retention=(0.5, 0.5))
    strategy = Strategy(scorer=scorer, schedule=schedule, recycler=GridRecycler(cell=2.5))
    assert Strategy.parse(strategy.to_json()) == strategy
    context = Context((5, 6), (7, 9), structural=7)
    plan = strategy.plan(scorer.score(context).importance, context.layout)
    assert plan.counts == strategy.schedule.counts(100)
