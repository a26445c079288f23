"""Whatever is given to the public names, what is wrong with it is told by vflowopt's own errors, in one line."""

import json
import math
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vflowopt
from core.search.synthetic import Synthetic
from vflowopt import CostModel, GridRecycler, KVCacheBytes, PrefillLatency, Progressive, Provenance, Strategy
from vflowopt.budgets.cost import Kind as CostKind
from vflowopt.budgets.cost import PruningCost
from vflowopt.budgets.curve import Curve
from vflowopt.errors import BudgetError, CostError, OutputError, StrategyError, VFlowOptError
from vflowopt.plugins import component_types
from vflowopt.search import search

COST = CostModel(
    architecture="a", device="cpu", dtype="float32", num_layers=4, decoder=Curve(),
    pruning=(PruningCost(kind=CostKind(scorer="random"), curve=Curve()),),
)  # fmt: skip
COMPONENTS = [kind for known in ("scorer", "schedule", "recycler", "mass") for kind in component_types(known).values()]


class Unspeakable:
    """Even its representation fails."""

    def __repr__(self):
        raise RuntimeError("no")


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=4)
    | st.sampled_from([10**400, -1, math.nan, "x" * 5000, "\ud800", "a\0b", object(), Path("/none"), int]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


def made_or_refused(call, *arguments, **options):
    """Only errors of vflowopt come out, and they fit on a line."""
    try:
        call(*arguments, **options)
    except VFlowOptError as error:
        refusal = error
    else:
        return
    assert isinstance(refusal, ValueError)
    assert len(str(refusal).encode(errors="backslashreplace").splitlines()) == 1
    assert len(str(refusal)) < 700


@pytest.mark.parametrize("kind", COMPONENTS, ids=[kind.component_name() for kind in COMPONENTS])
@given(data=st.data())
def test_components(kind, data):
    names = st.sampled_from([*kind.model_fields, "unknown"])
    options = data.draw(st.dictionaries(names, anything, min_size=1, max_size=3))
    made_or_refused(kind, **options)
    made_or_refused(kind.model_validate, options)


@pytest.mark.parametrize("kind", [Strategy, Provenance, CostModel, Curve, PruningCost, CostKind])
@given(data=st.data())
def test_values(kind, data):
    options = data.draw(st.dictionaries(st.sampled_from([*kind.model_fields, "unknown"]), anything, max_size=3))
    made_or_refused(kind, **options)
    made_or_refused(kind.model_validate, options)
    made_or_refused(kind.model_validate, data.draw(anything))
    made_or_refused(kind.model_validate_json, data.draw(st.text(max_size=20)))


@given(value=anything, other=anything)
def test_strategies(value, other):
    made_or_refused(Strategy.load, value)
    made_or_refused(Strategy.parse, value)
    made_or_refused(Strategy.preset, value)
    made_or_refused(Strategy.vflowopt, num_layers=value, retention=other)
    made_or_refused(Strategy.vflowopt, num_layers=8, retention=value, stages=other)
    made_or_refused(Strategy.vflowopt, num_layers=8, retention=(0.5, 0.5, 0.5), threshold=value, cell=other)


@given(value=anything)
def test_budgets(value):
    made_or_refused(KVCacheBytes, value)
    made_or_refused(PrefillLatency, value, COST)
    made_or_refused(PrefillLatency, 1.0, value)
    made_or_refused(CostModel.load, value)


@given(name=st.sampled_from(["budget", "seed", "stages", "starts", "fixed", "iterations", "initial"]), value=anything)
def test_arguments_of_a_search(name, value):
    """Of a search that ends after its first evaluation, if the value is good."""
    if name in ("iterations", "initial") and isinstance(value, int) and value > 2:
        value = -value
    arguments = {"budget": 0.5, "iterations": 0, "initial": 1, name: value}
    made_or_refused(search, Synthetic(), **arguments)


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (
            lambda: vflowopt.CalibratedAttention(threshold="x"),
            StrategyError,
            "threshold: should be a valid number, got 'x'",
        ),
        (
            lambda: vflowopt.CalibratedAttention(tresholt=1),
            StrategyError,
            "no field 'tresholt'; there are: .*threshold",
        ),
        (lambda: Progressive(stages=(0,), retention=(2,)), StrategyError, r"\(0, 1\], got \(2.0,\)"),
        (lambda: GridRecycler(), StrategyError, "cell is missing"),
        (lambda: Strategy(scorer=1, schedule=2), StrategyError, "scorer: .*got 1; schedule: .*got 2"),
        (lambda: Strategy.load(5), StrategyError, "5"),
        (lambda: vflowopt.optimize(object(), [], budget="half"), BudgetError, "'half'"),
        (lambda: KVCacheBytes("64MiB"), BudgetError, "'64MiB'"),
        (lambda: PrefillLatency(0.1, "cost.json"), CostError, "CostModel.load.*'cost.json'"),
        (lambda: COST.save("/"), OutputError, "'/'"),
        (lambda: Curve(linear=-1), CostError, "linear: should be greater than or equal to 0, got -1"),
    ],
)
def test_what_is_wrong_is_named(call, error, named):
    with pytest.raises(error, match=named):
        call()


def test_a_value_that_cannot_be_shown_is_refused_all_the_same():
    with pytest.raises(StrategyError, match=r"threshold: .*, got a Unspeakable"):
        vflowopt.CalibratedAttention(threshold=Unspeakable())


def test_a_value_in_a_value_is_named_by_its_path():
    data = json.loads(COST.to_json())
    data["decoder"]["linear"] = "steep"
    with pytest.raises(CostError, match=r"decoder\.linear: should be a valid number, got 'steep'"):
        CostModel.model_validate(OrderedDict(data))
