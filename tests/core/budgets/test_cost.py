"""Cost models: what they predict, when pruning pays, what they refuse, and their file."""

import itertools
import json

import pytest

from vflowopt import CostModel, GridRecycler, Progressive, Strategy
from vflowopt.budgets.cost import BreakEven, Kind, PruningCost, Setting
from vflowopt.budgets.curve import Curve
from vflowopt.budgets.lengths import SampleSize, batch_lengths
from vflowopt.errors import CostError, VFlowOptError

LAYERS = 6
STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.5, 0.6, 0.5), cell=2.5)
PLAIN = Kind.of(STRATEGY)


def cost_model(*, constant=0.0, linear=0.0, own=0.0, **fields):
    """Pruning takes ``own`` seconds per unit."""
    return CostModel(
        architecture="Tiny: 6 layers",
        device="CPU, 1 thread",
        dtype="float32",
        num_layers=LAYERS,
        decoder=Curve(constant=constant, linear=linear),
        pruning=(PruningCost(kind=PLAIN, curve=Curve(constant=own)),),
        **fields,
    )


@pytest.mark.parametrize("units", [(), (40,), (40, 33)])
@pytest.mark.parametrize("first", [0, 2])
def test_rows_of_layers_are_those_of_the_exact_counts(units, first):
    schedule = Progressive(stages=(first, 4), retention=(0.51, 0.5))
    size = SampleSize(10 + sum(units), units)
    expected = []
    for layer in range(LAYERS):
        rows = 10
        for tokens in units:
            counts = schedule.counts(tokens)
            rows += counts[1] if layer >= 4 else counts[0] if layer >= first else tokens
        expected.append(rows)
    assert list(size.lengths(schedule, LAYERS)) == expected


def test_a_batch_is_as_long_as_its_longest_sample_in_every_layer():
    schedule = Progressive(stages=(2, 4), retention=(0.5, 0.1))
    samples = [SampleSize(110, (100,)), SampleSize(70, (10,)), SampleSize(30, ())]
    full, pruned = batch_lengths(samples, schedule, LAYERS, 112)
    assert full == (112,) * LAYERS
    assert pruned == (112, 112, 65, 65, 61, 61)


def test_pruning_pays_where_it_saves_more_than_it_takes():
    """By hand: 110 rows without, (60 + 40 + 25) / 3 with; a row costs a millisecond."""
    sample = SampleSize(110, (100,))
    saved = 0.110 - (60 + 40 + 25) / 3000
    for own, pays in ((saved - 1e-6, True), (saved + 1e-6, False)):
        expected = cost_model(linear=1e-3, own=own).break_even(STRATEGY, [sample], 110)
        assert expected.pays is pays
        assert expected.unpruned_seconds == pytest.approx(0.110)
        assert expected.pruned_seconds == pytest.approx(0.110 - saved + own)
    assert not BreakEven(1.0, 1.0).pays


def test_a_batch_is_decided_as_a_whole():
    """One image in a batch of three saves nothing if another sample stays as long as the batch."""
    cost = cost_model(linear=1e-3, own=1e-6)
    image, text = SampleSize(110, (100,)), SampleSize(110, ())
    assert cost.break_even(STRATEGY, [image], 110).pays
    assert cost.break_even(STRATEGY, [image, image, image], 110).pays
    assert not cost.break_even(STRATEGY, [image, text], 110).pays
    of_three = cost.break_even(STRATEGY, [image] * 3, 110)
    assert of_three.unpruned_seconds == pytest.approx(3 * 0.110)


def test_what_is_outside_the_decoder_counts_on_both_sides():
    sample = SampleSize(110, (100,))
    without = cost_model(linear=1e-3).break_even(STRATEGY, [sample], 110)
    beside = cost_model(linear=1e-3, outside=Curve(linear=2e-3)).break_even(STRATEGY, [sample], 110)
    assert beside.unpruned_seconds - without.unpruned_seconds == pytest.approx(0.2)
    assert beside.pruned_seconds - without.pruned_seconds == pytest.approx(0.2)


def test_the_cheapest_measured_kind_that_does_no_less_is_taken():
    full = Kind(scorer="calibrated-attention", recycler="grid", needs=("attention", "entropy", "features"))
    cost = cost_model(own=1.0)
    cost = cost.model_copy(update={"pruning": (*cost.pruning, PruningCost(kind=full, curve=Curve(constant=3.0)))})
    with_entropy = STRATEGY.model_copy(
        update={"scorer": STRATEGY.scorer.model_copy(update={"entropy_weight": 1.0}), "recycler": None}
    )
    assert cost.pruning_seconds(PLAIN, (100, 50)) == 2.0
    assert cost.pruning_seconds(Kind.of(with_entropy), (100,)) == 3.0
    assert cost.pruning_seconds(Kind.of(STRATEGY.model_copy(update={"recycler": None})), (100,)) == 1.0
    with pytest.raises(CostError, match=r"has not measured random.*only calibrated-attention.*--strategy"):
        cost.pruning_seconds(Kind(scorer="random"), (100,))


def test_recyclers_are_told_apart():
    assert Kind.of(STRATEGY.model_copy(update={"recycler": GridRecycler(cell=9.0)})) == PLAIN
    assert not Kind(scorer="calibrated-attention", needs=("attention",)).covers(PLAIN)


@pytest.mark.parametrize("field", ["architecture", "device", "dtype", "num_layers"])
def test_another_setting_is_refused_by_name(field):
    cost = cost_model()
    cost.require(cost.setting, PLAIN)
    values = vars(cost.setting) | {field: 7 if field == "num_layers" else "another"}
    with pytest.raises(CostError, match=f"{field} .*not .*vflowopt calibrate") as error:
        cost.require(Setting(**values), PLAIN)
    others = {"architecture", "device", "dtype", "num_layers"} - {field}
    assert not any(f" {other} " in str(error.value) for other in others)
    assert isinstance(error.value, VFlowOptError)
    assert isinstance(error.value, ValueError)


def test_its_file_round_trips(tmp_path):
    measured = (((10.0,), 0.1), ((10.0, 20.0), 0.3))
    cost = cost_model(constant=0.1, own=0.25, model="tiny", outside=Curve(linear=0.01, measured=measured))
    path = cost.save(tmp_path / "cost.json")
    assert CostModel.load(path) == cost
    assert json.loads(path.read_text())["format"] == "vflowopt/cost/1"
    assert [each.name for each in tmp_path.iterdir()] == ["cost.json"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"format": "vflowopt/strategy/1"}, "format"),
        ({"surprise": 1}, "surprise"),
        ({"num_layers": 0}, "num_layers"),
        ({"decoder": {"constant": -1.0}}, "decoder.constant"),
    ],
)
def test_another_file_is_refused_by_its_wrong_field(tmp_path, change, named):
    path = tmp_path / "cost.json"
    path.write_text(json.dumps(json.loads(cost_model().to_json()) | change))
    with pytest.raises(CostError, match=named):
        CostModel.load(path)


def test_a_file_that_is_none_is_refused(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_bytes(b"\xff{")
    for path in (tmp_path / "missing.json", tmp_path, broken):
        with pytest.raises(CostError, match=path.name):
            CostModel.load(path)


def test_time_grows_with_every_layer():
    cost = cost_model(constant=0.1, linear=1e-3)
    for shorter, longer in itertools.pairwise([(5,) * 6, (5,) * 5 + (6,), (6,) * 6]):
        assert cost.prefill_seconds(shorter) < cost.prefill_seconds(longer)
