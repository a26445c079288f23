"""What a decoder adds after its first layers, reduced to retained tokens, against loops over tokens."""

import numpy as np
import pytest
import torch

from vflowopt import GridRecycler, TokenLayout
from vflowopt.plans.planning import make_plan
from vflowopt_hf.decoder.residuals import residuals_after
from vflowopt_hf.family import LayerResiduals
from vflowopt_hf.plans.rows import BatchRows, PlacedPlan

FEATURES, QUERIES, BOUNDARIES = 5, 40, (1, 3)
UNITS = ((0, 3, (4, 6), (9, 4)), (1, 1, (3, 3), (6, 2)), (1, 15, (2, 8), (16, 16)))
"""Sample, first row, rows and columns of its grid, tokens retained per stage; the last drops nothing."""


@pytest.fixture
def residuals():
    generator = torch.Generator().manual_seed(0)
    rows = torch.zeros(2, QUERIES, dtype=torch.bool)
    for sample, first, (height, width), _ in UNITS:
        rows[sample, first : first + height * width] = True
    values = [torch.randn(int(rows.sum()), FEATURES, generator=generator) for _ in range(4)]
    return LayerResiduals(rows, values)


@pytest.fixture
def plans():
    generator = torch.Generator().manual_seed(1)
    made = []
    for sample, first, (height, width), counts in UNITS:
        layout = TokenLayout(np.indices((1, height, width)).reshape(3, -1).T)
        importance = torch.rand(height * width, generator=generator)
        plan = make_plan(importance, layout, BOUNDARIES, counts, GridRecycler(cell=2.0))
        made.append(PlacedPlan(plan, sample, np.arange(first, first + height * width)))
    return made


def expected(residuals, plans, layer, rows):
    """float64 [rows, features] of one sample's logical ``rows``: (sample, row) pairs."""
    flat = {tuple(place): index for index, place in enumerate(residuals.rows.nonzero().tolist())}
    values = residuals.values[layer].double().numpy()
    found = np.zeros((len(rows), FEATURES))
    for number, (sample, row) in enumerate(rows):
        for placed in plans:
            if placed.sample == sample and row in placed.rows:
                token = int(np.flatnonzero(placed.rows == row)[0])
                for member in range(placed.plan.tokens):
                    if int(placed.plan.anchor[member]) == token:
                        share = float(placed.plan.weight[member])
                        found[number] += share * values[flat[sample, int(placed.rows[member])]]
    return found


def table_of(plans):
    return BatchRows([(placed.sample, placed.rows) for placed in plans], np.ones((2, QUERIES), dtype=bool), "cpu")


@pytest.mark.parametrize(("layer", "stage"), [(1, 0), (2, 0), (3, 1)])
def test_retained_rows_hold_the_weighted_mean_of_their_members(residuals, plans, layer, stage):
    stages = table_of(plans).stages(plans)
    added = residuals_after(residuals, layer, table_of(plans), plans, stages[stage])
    assert added.shape == (2, stages[stage].logical.shape[1], FEATURES)
    valid = stages[stage].valid
    assert valid is not None  # samples retain different numbers of tokens
    rows = [(sample, int(stages[stage].logical[sample, slot])) for sample, slot in valid.nonzero().tolist()]
    oracle = expected(residuals, plans, layer, rows)
    np.testing.assert_allclose(added[valid].numpy(), oracle, rtol=1e-5, atol=1e-6)
    assert 0 < (oracle == 0).all(axis=1).sum() < len(rows)  # text among visual tokens


def test_before_the_first_stage_everything_is_added_where_it_belongs(residuals, plans):
    added = residuals_after(residuals, 0, table_of(plans), plans, None)
    assert torch.equal(added[residuals.rows], residuals.values[0])
    assert not added[~residuals.rows].any()


def test_later_layers_add_nothing(residuals, plans):
    assert residuals_after(residuals, 4, table_of(plans), plans, None) is None
