"""Calibration on tiny models: what is measured, that the model is left as it was, and what the times are good for."""

import pytest
import torch

from support.tiny import LAYERS, image_inputs, tiny_onevision, video_inputs
from support.tiny_qwen import qwen_inputs, tiny_qwen2_vl
from vflowopt import CostModel, PrefillLatency, Strategy, optimize, prune
from vflowopt.budgets.calibration import usual_strategies
from vflowopt.budgets.cost import Kind
from vflowopt.errors import CostError, InputError, PruningStateError, StrategyError
from vflowopt.plugins import find_adapter


def samples(model):
    return [image_inputs(model, [[size]], seed=seed) for seed, size in enumerate([(42, 42), (84, 84), (80, 60)])]


def calibrated(model, data, **options):
    return find_adapter(model).calibrate(model, data, usual_strategies(LAYERS), **{"rounds": 1, **options})


def test_every_part_is_measured_at_several_sizes(tmp_path):
    model, seen = tiny_onevision(), []
    data = samples(model)
    cost = calibrated(model, data, max_rows=640, name="tiny", on_task=lambda *told: seen.append(told))
    assert [rows for (rows,), _ in cost.decoder.measured] == [20, 40, 80, 160, 320, 640]
    images = sorted(int((inputs["input_ids"] == 1).sum()) for inputs in data)
    for curve in (cost.outside, *(part.curve for part in cost.pruning)):
        assert [tokens for (tokens,), _ in curve.measured] == images
    assert {part.kind for part in cost.pruning} == {Kind.of(strategy) for strategy in usual_strategies(LAYERS)}
    assert all(seconds > 0 for _, seconds in cost.decoder.measured)
    assert cost.setting == find_adapter(model).setting(model)
    assert cost.model == "tiny"
    assert "torch" in cost.versions
    assert seen[-1][0] == seen[-1][1] == len(seen)
    assert CostModel.load(cost.save(tmp_path / "cost.json")) == cost


def test_longer_prefills_are_expected_to_take_longer():
    model = tiny_onevision()
    cost = calibrated(model, samples(model)[:1], max_rows=2048, rounds=3)
    assert cost.prefill_seconds((2048,) * LAYERS) > 2 * cost.prefill_seconds((256,) * LAYERS)


def test_the_model_is_left_as_it_was_found():
    model = tiny_onevision()
    data = samples(model)
    with torch.no_grad():
        before = model(**data[0]).logits
        hooks = sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())
        calibrated(model, data)
        assert torch.equal(model(**data[0]).logits, before)
    assert hooks == sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_also_videos_and_several_images_and_a_single_sample():
    model = tiny_onevision()
    cost = calibrated(model, [video_inputs(3), image_inputs(model, [[(42, 42), (42, 42)]])])
    tokens = {parts for parts, _ in cost.outside.measured}
    assert tokens == {(50.0, 50.0), (49.0,)}
    alone = calibrated(model, [video_inputs(3)])
    assert alone.outside.constant == alone.outside.quadratic == 0


def test_of_many_samples_four_sizes_are_used():
    model = tiny_onevision()
    data = [image_inputs(model, [[size]]) for size in [(42, 42), (84, 42), (84, 84), (80, 60), (30, 120), (60, 60)]]
    assert len(calibrated(model, data).outside.measured) == 4


def test_another_family_by_the_same_call():
    model, inputs = tiny_qwen2_vl(), qwen_inputs([[(56, 84)]])
    layers = find_adapter(model).num_layers(model)
    cost = find_adapter(model).calibrate(model, [inputs], usual_strategies(layers), rounds=1)
    assert cost.num_layers == layers
    with prune(model, usual_strategies(layers)[0], guard=cost) as pruning, torch.no_grad():
        model(**inputs)
        assert pruning.report.guard.pruned_seconds > 0


def test_what_cannot_be_measured_is_refused():
    model = tiny_onevision()
    deep = Strategy.vflowopt(num_layers=28, retention=(0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="at least one sample"):
        calibrated(model, [])
    with pytest.raises(InputError, match="not 3"):
        calibrated(model, samples(model), max_rows=3)
    with pytest.raises(StrategyError, match="beyond the last"):
        find_adapter(model).calibrate(model, samples(model), [deep])
    with prune(model, usual_strategies(LAYERS)[0]), pytest.raises(PruningStateError):
        calibrated(model, samples(model))


def test_a_latency_is_met_by_what_the_model_expects_and_remembered():
    model = tiny_onevision()
    data = samples(model)
    cost = calibrated(model, data)
    # A machine on which decoding dominates: pruning pays even on so small a model.
    cost = cost.model_copy(update={"decoder": cost.decoder.model_copy(update={"linear": 1e-2})})
    rows = [inputs["input_ids"].shape[1] for inputs in data]
    seconds = 0.6 * sum(cost.prefill_seconds((count,) * LAYERS) for count in rows) / len(rows)
    result = optimize(model, data, PrefillLatency(seconds, cost), iterations=0, initial=2)
    requested = result.strategy.provenance.requested
    assert requested.kind == "prefill-latency"
    assert 0.8 * seconds < requested.used <= seconds
    other = cost.model_copy(update={"dtype": "float16"})
    with pytest.raises(CostError, match="dtype"):
        optimize(model, data, PrefillLatency(seconds, other), iterations=0, initial=1)
