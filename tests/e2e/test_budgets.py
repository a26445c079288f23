"""``vflowopt calibrate``, ``--guard``, ``--kv-cache`` and ``--prefill-latency`` on a saved tiny checkpoint."""

import json

import pytest

from support import tiny
from support.command_line import complaint, invoke
from vflowopt import CostModel, Strategy
from vflowopt.budgets.calibration import usual_strategies
from vflowopt.budgets.cost import Kind

pytestmark = pytest.mark.filterwarnings("ignore")

SEARCH = ("--iterations", 0, "--initial", 2)


def run(*arguments):
    return invoke(*arguments).stdout


@pytest.fixture(scope="module")
def costs(model, images, tmp_path_factory):
    """A calibrated file, and two made of it: pruning takes no time, and pruning takes for ever."""
    directory = tmp_path_factory.mktemp("costs")
    told = run("calibrate", "-m", model, "-i", images / "1.png", "--rounds", 1, "--out", directory / "cost.json")
    measured = CostModel.load(directory / "cost.json")
    for name, seconds in (("free", 0.0), ("dear", 1e6)):
        curve = measured.decoder.model_copy(update={"linear": 1e-3})
        own = measured.pruning[0].curve.model_copy(update={"constant": seconds, "linear": 0.0, "quadratic": 0.0})
        kinds = tuple(part.model_copy(update={"curve": own}) for part in measured.pruning)
        measured.model_copy(update={"decoder": curve, "pruning": kinds}).save(directory / f"{name}.json")
    return {"told": told, **{name: directory / f"{name}.json" for name in ("cost", "free", "dear")}}


def test_calibrating_shows_measurements_beside_the_fit(costs, model):
    cost = CostModel.load(costs["cost"])
    assert cost.model == str(model)
    assert {part.kind for part in cost.pruning} == {Kind.of(strategy) for strategy in usual_strategies(tiny.LAYERS)}
    assert len(cost.outside.measured) == 3  # of the image's four sizes, two come to as many tokens
    assert "measured" in costs["told"]
    assert "largest error of the fit" in costs["told"]


def test_further_strategies_and_longer_prefills_are_measured(model, images, tmp_path):
    out = tmp_path / "cost.json"
    more = ("-s", "random@0.5", "-s", "fastv@0.5", "--max-tokens", 512, "--samples", 1, "--json")
    told = json.loads(run("calibrate", "-m", model, "--images", images, "--rounds", 1, "--out", out, *more))
    assert CostModel.model_validate_json(json.dumps(told)) == CostModel.load(out)
    assert {"random", "fastv"} < {part["kind"]["scorer"] for part in told["pruning"]}
    assert max(parts[0] for parts, _ in told["decoder"]["measured"]) == 512


@pytest.mark.parametrize(("name", "pays"), [("free", True), ("dear", False)])
def test_run_says_what_the_guard_did(model, images, costs, name, pays):
    ask = ("run", "-m", model, "-i", images / "1.png", "-p", "w7 w8", "-s", "mean-attention@0.5", "--max-new-tokens", 3)
    told = json.loads(run(*ask, "--guard", costs[name], "--json"))
    assert told["guard"]["pruned"] is pays
    assert (told["guard"]["pruned_seconds"] < told["guard"]["unpruned_seconds"]) is pays
    assert (told["pruned"]["kv_cache_bytes"] < told["unpruned"]["kv_cache_bytes"]) is pays
    if not pays:
        assert told["pruned"]["text"] == told["unpruned"]["text"]
    shown = run(*ask, "--guard", costs[name])
    assert "expected by the guard" in shown
    assert ("left this input alone" in " ".join(shown.split())) is not pays
    assert json.loads(run(*ask, "--json"))["guard"] is None


@pytest.mark.parametrize(("name", "left"), [("free", 0), ("dear", 2)])
def test_evaluate_counts_what_was_left_alone(model, images, costs, tmp_path, name, left):
    data = tmp_path / "data.jsonl"
    lines = [{"image": str(images / f"{index}.png"), "question": "w7", "answers": ["w8"]} for index in (0, 1)]
    data.write_text("\n".join(map(json.dumps, lines)))
    ask = ("evaluate", "-m", model, "--data", data, "-s", "mean-attention@0.5", "--max-new-tokens", 2)
    unpruned, pruned = json.loads(run(*ask, "--guard", costs[name], "--json"))
    assert unpruned["left_alone"] is None
    assert pruned["left_alone"] == left
    assert (pruned["retention"] == 1) is (left == 2)
    assert "left alone" in run(*ask, "--guard", costs[name])
    assert [row["left_alone"] for row in json.loads(run(*ask, "--json"))] == [None, None]
    assert "left alone" not in run(*ask)
    assert "--guard" in complaint(*ask, "--guard", costs[name], "--similarity")


def test_a_budget_in_bytes(model, images, tmp_path):
    out = tmp_path / "strategy.json"
    ask = ("optimize", "-m", model, "--images", images, "--prompt", "w7", *SEARCH, "--out", out)
    assert "of 92,160 bytes" in run(*ask, "--kv-cache", "90KiB")
    requested = Strategy.load(out).provenance.requested
    assert (requested.kind, requested.value, requested.over) == ("kv-cache", 92160, "mean")
    assert requested.used <= 92160
    told = json.loads(run(*ask, "--kv-cache", "92160", "--worst", "--json"))
    assert told["strategy"]["provenance"]["requested"]["over"] == "worst"
    assert "feasible are" in complaint(*ask, "--kv-cache", "1GB")
    assert "number of bytes" in complaint(*ask, "--kv-cache", "plenty")


def test_a_budget_in_seconds(model, images, costs, tmp_path):
    out = tmp_path / "strategy.json"
    ask = ("optimize", "-m", model, "--images", images, "--prompt", "w7", *SEARCH, "--out", out)
    cost = CostModel.load(costs["free"])
    seconds = f"{cost.outside.at(150) + cost.decoder.at(80):.3f}"
    shown = run(*ask, "--prefill-latency", seconds, "--cost", costs["free"])
    assert "expected by the cost model" in shown
    assert "the search measured" in shown
    assert Strategy.load(out).provenance.requested.used <= float(seconds)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ((), "exactly one"),
        (("--budget", "0.5", "--kv-cache", "1MiB"), "exactly one"),
        (("--prefill-latency", "0.2"), "--cost"),
        (("--budget", "0.5", "--cost", "cost.json"), "--prefill-latency"),
        (("--budget", "0.5", "--worst"), "--worst"),
        (("--kv-cache", "-5"), "number of bytes"),
        (("--prefill-latency", "0.2", "--cost", "missing.json"), "missing.json"),
    ],
)
def test_budgets_that_make_no_sense_are_refused_without_a_model(options, named, tmp_path):
    assert named in complaint("optimize", "-m", "nowhere", "--out", tmp_path / "s.json", *options)


def test_a_guard_of_another_model_is_refused(model, images, costs, tmp_path):
    other = CostModel.load(costs["cost"]).model_copy(update={"num_layers": 28})
    ask = ("run", "-m", model, "-i", images / "1.png", "-p", "w7", "-s", "mean-attention@0.5")
    assert "num_layers 28, not 6" in complaint(*ask, "--guard", other.save(tmp_path / "other.json"))
    assert "cannot read" in complaint(*ask, "--guard", tmp_path / "missing.json")
    unmeasured = (*ask[:-1], "random@0.5", "--guard", costs["cost"])
    assert "has not measured random" in complaint(*unmeasured)


def test_calibrating_needs_samples_and_a_place_to_write(model, images, tmp_path):
    assert "--image" in complaint(
        "calibrate", "-m", model, "-i", images / "1.png", "--images", images, "--out", tmp_path / "c.json"
    )
    assert "no directory" in complaint("calibrate", "-m", model, "-i", images / "1.png", "--out", tmp_path / "x" / "c")


def test_bench_calibrates_on_the_way(model, images, tmp_path):
    out = tmp_path / "cost.json"
    ask = ("bench", "-m", model, "-i", images / "0.png", "--budgets", "0.5", "-s", "random@0.5", "--rounds", 1)
    run(*ask, "--calibrate", out)
    cost = CostModel.load(out)
    assert {part.kind.scorer for part in cost.pruning} == {"calibrated-attention", "random"}
    assert "--growth" in complaint("bench", "--growth", "--calibrate", out)
