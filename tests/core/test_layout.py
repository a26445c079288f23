"""Token layouts: geometry, structural tokens, and what their protection costs."""

import re

import numpy as np
import pytest
from hypothesis import assume, given

from vflowopt import Progressive, TokenLayout
from vflowopt.errors import BudgetError, InputError
from vflowopt.testing import positions


@given(position=positions())
def test_a_layout_counts_its_tokens_and_marks_structural_ones(position):
    layout = TokenLayout(position)
    assert layout.tokens == len(position)
    assert layout.structural.tolist() == [place == [-1, -1, -1] for place in position.tolist()]


@given(position=positions())
def test_too_few_slots_for_structural_tokens_name_a_feasible_retention(position):
    layout = TokenLayout(position)
    structural = int(layout.structural.sum())
    layout.require(structural)
    assume(structural > 0)
    with pytest.raises(
        BudgetError, match=f"keeps {structural - 1} of {layout.tokens}.* {structural} structural"
    ) as caught:
        layout.require(structural - 1)
    least = float(re.search(r"retention for this input is ([\d.]+)$", str(caught.value))[1])
    assert Progressive.flat(least).counts(layout.tokens) == (structural,)


@pytest.mark.parametrize("shape", [(4,), (4, 2), (3, 4), (1, 4, 3)])
def test_positions_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match=r"shape \[N, 3\], not " + re.escape(str(shape))):
        TokenLayout(np.zeros(shape, dtype=np.int64))


@pytest.mark.parametrize("place", [(-1, 0, 0), (0, -1, 0), (0, 0, -2), (-1, -1, 0), (-2, -2, -2)])
def test_half_structural_positions_are_refused(place):
    with pytest.raises(InputError, match=r"\(-1, -1, -1\)"):
        TokenLayout(np.array([(0, 0, 0), place]))
