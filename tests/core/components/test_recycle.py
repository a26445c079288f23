"""Grid recycling under an exact budget (Eq. 6-7) against brute force over the number of kept tokens."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given

from oracles import pruning as oracle
from support.backends import both_backends, host, to_backend
from vflowopt import GridRecycler, TokenLayout
from vflowopt.components.recycle import grid_cells, member_table
from vflowopt.errors import StrategyError
from vflowopt.testing import positions, pruning_cases, sides


def merge(case, backend="numpy", importance=None):
    importance = case.importance if importance is None else importance
    return GridRecycler(cell=case.side).merge(to_backend(importance, backend), case.layout, case.counts[0])


def assert_same(actual, expected):
    assert set(np.flatnonzero(host(actual.retained))) == expected.retained
    assert host(actual.anchor).tolist() == list(expected.anchor.values())
    np.testing.assert_allclose(host(actual.weight), list(expected.weight.values()), rtol=1e-6, atol=1e-12)


@given(position=positions(separators=False), side=sides)
def test_cells_are_those_of_equation_6(position, side):
    numbers = grid_cells(TokenLayout(position), side).tolist()
    cells = [oracle.cell_of(place, side) for place in position]
    dense = {cell: number for number, cell in enumerate(sorted(set(cells)))}
    assert numbers == [dense[cell] for cell in cells]


@given(position=positions(separators=False), side=sides)
def test_the_member_table_lists_every_token_once_in_its_cell(position, side):
    cells = grid_cells(TokenLayout(position), side)
    table, valid = member_table(cells)
    listed = {number: row[held].tolist() for number, (row, held) in enumerate(zip(table, valid, strict=True))}
    expected = {}
    for token, number in enumerate(cells.tolist()):
        expected.setdefault(number, []).append(token)
    assert listed == expected


@both_backends
@given(case=pruning_cases(exact=True, with_separators=False))
def test_recycling_agrees_with_brute_force_to_the_last_tie(backend, case):
    assert_same(merge(case, backend), oracle.recycle(case.importance, case.position, case.side, case.counts[0]))


@both_backends
@given(case=pruning_cases(with_separators=False))
def test_recycling_agrees_with_brute_force_on_any_numbers(backend, case):
    expected = oracle.recycle(case.importance, case.position, case.side, case.counts[0])
    assume(expected.margin > 1e-5)  # closer cells are ordered by the rounding of their sums
    assert_same(merge(case, backend), expected)


@given(case=pruning_cases(exact=True, max_side=5, with_separators=False))
def test_every_k_that_meets_the_budget_means_the_same(case):
    """The claim behind the search over k: the number left grows by 0 or 1, and steps of 0 change nothing."""
    left = oracle.budgets(case.importance, case.position, case.side)
    assert all(after - before in (0, 1) for before, after in itertools.pairwise(left))
    assert left[-1] == len(left) - 1
    first, *others = oracle.solutions(case.importance, case.position, case.side, case.counts[0])
    for other in others:
        assert (other.retained, other.anchor, other.weight) == (first.retained, first.anchor, first.weight)


@both_backends
@given(case=pruning_cases(with_separators=False))
def test_exactly_the_count_is_retained(backend, case):
    assert host(merge(case, backend).retained).sum() == case.counts[0]


@both_backends
@given(case=pruning_cases(with_separators=False))
def test_a_recycled_token_is_a_convex_combination_of_pruned_neighbours(backend, case):
    outcome = merge(case, backend)
    anchor, weight, retained = (host(values) for values in (outcome.anchor, outcome.weight, outcome.retained))
    assert (weight >= 0).all()
    assert (weight[anchor < 0] == 0).all()
    assert set(anchor[anchor >= 0]) == set(np.flatnonzero(retained))
    cells = grid_cells(case.layout, case.side)
    for head in np.flatnonzero(retained):
        members = np.flatnonzero(anchor == head)
        assert weight[members].sum() == pytest.approx(1, rel=1e-5)
        assert (cells[members] == cells[head]).all() or members.tolist() == [head]
        assert case.importance[head] == case.importance[members].max()


@given(case=pruning_cases(with_separators=False))
def test_negative_importance_carries_no_weight(case):
    shifted = case.importance - np.float32(np.median(case.importance))
    outcome = merge(case, importance=shifted)
    for head in np.flatnonzero(outcome.retained):
        members = np.flatnonzero(outcome.anchor == head)
        assert outcome.weight[members].sum() == pytest.approx(1, rel=1e-5)
        if (shifted[members] > 0).any():
            assert (outcome.weight[members][shifted[members] <= 0] == 0).all() or len(members) == 1


def test_known_case():
    """Two rows of four, cells of two by two, four slots: two are kept, and one token per cell is recycled."""
    layout = TokenLayout(np.array([(0, row, column) for row in range(2) for column in range(4)]))
    importance = np.array([8, 1, 3, 1, 2, 7, 1, 0], dtype=np.float32)
    outcome = GridRecycler(cell=2.0).merge(importance, layout, 4)
    assert outcome.anchor.tolist() == [0, 4, 2, 2, 4, 5, 2, 2]
    np.testing.assert_allclose(outcome.weight, [1, 1 / 3, 3 / 5, 1 / 5, 2 / 3, 1, 1 / 5, 0], rtol=1e-6)


def test_weights_fall_back_to_the_plain_mean_where_all_are_zero():
    layout = TokenLayout(np.array([(0, 0, column) for column in range(4)]))
    outcome = GridRecycler(cell=4.0).merge(np.zeros(4, dtype=np.float32), layout, 1)
    assert outcome.anchor.tolist() == [0] * 4
    assert outcome.weight.tolist() == [0.25] * 4


def test_fewer_slots_than_cells_keep_the_cells_with_the_largest_sum():
    """The sum decides, not the best member: 4 alone loses against 3 + 3."""
    layout = TokenLayout(np.array([(0, 0, column) for column in range(6)]))
    importance = np.array([4, 0, 3, 3, 1, 1], dtype=np.float32)
    outcome = GridRecycler(cell=2.0).merge(importance, layout, 1)
    assert outcome.anchor.tolist() == [-1, -1, 2, 2, -1, -1]
    assert outcome.weight.tolist() == [0, 0, 0.5, 0.5, 0, 0]


def test_cells_of_a_side_that_is_no_integer():
    layout = TokenLayout(np.array([(0, row, 0) for row in range(8)]))
    assert grid_cells(layout, 2.5).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]


def test_grids_never_share_a_cell():
    layout = TokenLayout(np.array([(view, 0, 0) for view in range(3)]))
    outcome = GridRecycler(cell=100.0).merge(np.ones(3, dtype=np.float32), layout, 3)
    assert outcome.anchor.tolist() == [0, 1, 2]


@pytest.mark.parametrize("cell", [0.99, 0, -1, float("inf"), float("nan")])
def test_cells_smaller_than_a_token_are_refused(cell):
    with pytest.raises(StrategyError, match="cell"):
        GridRecycler(cell=cell)
