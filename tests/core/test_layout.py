"""Token layouts: geometry, separators, and their rows."""

import re

import numpy as np
import pytest
from hypothesis import given

from oracles import pruning as oracle
from vflowopt import TokenLayout
from vflowopt.errors import InputError
from vflowopt.testing import positions


@given(position=positions())
def test_a_layout_counts_its_tokens_and_marks_structural_ones(position):
    layout = TokenLayout(position)
    assert layout.tokens == len(position)
    assert layout.structural.tolist() == [place == [-1, -1, -1] for place in position.tolist()]


@given(position=positions())
def test_every_separator_belongs_to_a_row(position):
    layout = TokenLayout(position)
    rows, placed = layout.rows.tolist(), layout.placed().position.tolist()
    assert not layout.placed().structural.any()
    beside = [oracle.neighbour(position, i) if oracle.is_structural(place) else i for i, place in enumerate(position)]
    for i, own in enumerate(beside):
        if own is None:
            assert rows[i] == -1
            assert placed[i] == [0, 0, i]
        else:
            assert placed[i] == position[own].tolist()
            same = [position[other, :2].tolist() == position[own, :2].tolist() for other in beside]
            assert [row == rows[i] for row in rows] == same


@pytest.mark.parametrize("shape", [(4,), (4, 2), (3, 4), (1, 4, 3)])
def test_positions_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match=r"shape \[N, 3\], not " + re.escape(str(shape))):
        TokenLayout(np.zeros(shape, dtype=np.int64))


@pytest.mark.parametrize("place", [(-1, 0, 0), (0, -1, 0), (0, 0, -2), (-1, -1, 0), (-2, -2, -2)])
def test_half_structural_positions_are_refused(place):
    with pytest.raises(InputError, match=r"\(-1, -1, -1\)"):
        TokenLayout(np.array([(0, 0, 0), place]))
