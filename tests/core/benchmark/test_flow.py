"""Discrepancies of hidden states: measures against loops, statistics, and the picture."""

import json
import math

import numpy as np
import pytest

from vflowopt.benchmark.flow import (
    MEASURES,
    TOKENS,
    Flow,
    StrategyFlow,
    cosine_distance,
    discrepancies,
    relative_distance,
)
from vflowopt.errors import InputError
from vflowopt.picture.curves import draw_flow
from vflowopt.picture.paint import BLUE, ORANGE

RNG = np.random.default_rng(0)


def states(layers=3, tokens=5, features=7):
    return [RNG.normal(size=(tokens, features)).astype(np.float32) for _ in range(layers)]


def cosine(a, b):
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return 1 - dot / math.sqrt(sum(float(x) ** 2 for x in a)) / math.sqrt(sum(float(y) ** 2 for y in b))


def relative(a, b):
    apart = math.sqrt(sum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True)))
    return apart / math.sqrt(sum(float(x) ** 2 for x in a))


def test_measures_of_tokens():
    full, pruned = states(), states()
    found = discrepancies(full, pruned)
    for layer, (a, b) in enumerate(zip(full, pruned, strict=True)):
        for measure, function in (("cosine", cosine), ("l2", relative)):
            each = [function(*pair) for pair in zip(a, b, strict=True)]
            assert found["text", measure][layer] == pytest.approx(sum(each) / len(each), rel=1e-12)
            assert found["last", measure][layer] == pytest.approx(each[-1], rel=1e-12)


def test_equal_states_are_exactly_0_apart():
    (full,) = states(1, 200, 33)
    assert (cosine_distance(full, full) == 0).all()
    assert (relative_distance(full, full) == 0).all()


def test_length_matters_to_l2_only():
    (full,) = states(1)
    assert cosine_distance(full, 3 * full) == pytest.approx(0, abs=1e-12)
    assert relative_distance(full, 3 * full) == pytest.approx(2)
    assert cosine_distance(full, -full) == pytest.approx(2)


def test_tiny_differences_do_not_drown_in_rounding():
    full = np.array([[1.0, 0.0]])
    assert cosine_distance(full, np.array([[1.0, 1e-9]]))[0] == pytest.approx(0.5e-18, rel=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_states_that_are_not_finite_are_refused_with_their_layer(value):
    full, pruned = states(), states()
    pruned[1][2, 3] = value
    with pytest.raises(InputError, match=r"layer 1 .*bfloat16"):
        discrepancies(full, pruned)


def flow(layers=6, samples=4):
    def strategy(name, boundaries, level):
        values = {key: level * RNG.random((samples, layers)) for key in ((t, m) for t in TOKENS for m in MEASURES)}
        return StrategyFlow(name, boundaries, 0.25, values)

    return Flow(layers, samples, (strategy("first", (0, 2, 4), 0.3), strategy("second", (0,), 0.1)))


def test_mean_and_spread_are_over_samples():
    each = flow().strategies[0]
    for layer in range(6):
        column = each.values["text", "l2"][:, layer]
        mean = sum(column) / 4
        assert each.mean("text", "l2")[layer] == pytest.approx(mean)
        assert each.spread("text", "l2")[layer] == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in column) / 4))


def test_description_survives_json():
    made = flow()
    told = json.loads(json.dumps(made.describe()))
    assert (told["layers"], told["samples"]) == (6, 4)
    first, second = told["strategies"]
    assert (first["strategy"], first["boundaries"], second["retention"]) == ("first", [0, 2, 4], 0.25)
    assert first["last"]["cosine"]["mean"] == made.strategies[0].mean("last", "cosine").tolist()
    assert second["text"]["l2"]["spread"] == made.strategies[1].spread("text", "l2").tolist()


def test_the_higher_curve_is_drawn_higher():
    layers, samples = 6, 2
    levels = {"first": 0.9, "second": 0.3}
    made = Flow(layers, samples, tuple(
        StrategyFlow(name, (0,), 0.25, {(t, m): np.full((samples, layers), level) for t in TOKENS for m in MEASURES})
        for name, level in levels.items()
    ))  # fmt: skip
    pixels = np.asarray(draw_flow(made, title="a model"))
    chart = pixels[-360:, 140:]  # the last one, without the axis' labels
    rows = [np.flatnonzero((chart == color).all(axis=-1).any(axis=1)) for color in (BLUE, ORANGE)]
    assert all(len(found) for found in rows)
    assert rows[0].max() < rows[1].min()


def test_curves_without_any_discrepancy_can_be_drawn():
    values = {(t, m): np.zeros((1, 3)) for t in TOKENS for m in MEASURES}
    assert draw_flow(Flow(3, 1, (StrategyFlow("s" * 200, (0,), 1.0, values),)), measure="l2").width > 500
