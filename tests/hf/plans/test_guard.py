"""The break-even guard: decisions by hand-made cost models, what a forward left alone is, and what it says."""

import pytest
import torch

from support.tiny import LAYERS, image_inputs, tiny_onevision, video_inputs
from vflowopt import CostModel, Strategy, prune
from vflowopt.budgets.cost import Kind, PruningCost
from vflowopt.budgets.curve import Curve
from vflowopt.errors import CostError, UnsupportedOperationError
from vflowopt.plugins import find_adapter

STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.8), threshold=1.2, cell=2.5)


def cost_model(model, own, row=1e-3, **changes):
    """A row of the decoder costs ``row`` seconds, pruning a unit ``own``."""
    here = find_adapter(model).setting(model)
    fields = {
        **vars(here),
        "decoder": Curve(linear=row),
        "pruning": (PruningCost(kind=Kind.of(STRATEGY), curve=Curve(constant=own)),),
    }
    return CostModel(**fields | changes)


def forward(model, inputs):
    with torch.no_grad():
        return model(**inputs, use_cache=True)


def same(first, second):
    caches = zip(first.past_key_values.layers, second.past_key_values.layers, strict=True)
    return torch.equal(first.logits, second.logits) and all(
        torch.equal(one.keys, other.keys) and torch.equal(one.values, other.values) for one, other in caches
    )


@pytest.mark.parametrize("inputs", ["image", "images", "video"])
def test_a_forward_left_alone_is_upstream_bitwise(inputs):
    model = tiny_onevision()
    made = {
        "image": lambda: image_inputs(model, [[(80, 60)]]),
        "images": lambda: image_inputs(model, [[(42, 42), (30, 120)]]),
        "video": lambda: video_inputs(3),
    }[inputs]()
    upstream = forward(model, made)
    with prune(model, STRATEGY, guard=cost_model(model, own=1e6)) as pruning:
        assert same(forward(model, made), upstream)
        report, plans = pruning.report, pruning.plan
    assert not report.guard.pays
    assert report.retention == 1
    assert report.sequence_lengths == (report.full_length,) * LAYERS
    assert report.kv_cache_bytes == report.kv_cache_bytes_unpruned
    for unit, plan in zip(report.units, plans, strict=True):
        assert unit.counts == plan.counts == (unit.tokens,) * 3
        assert plan.is_identity
    assert "left alone" in str(report)


def test_a_guard_that_expects_a_gain_changes_nothing_else():
    model = tiny_onevision()
    inputs = image_inputs(model, [[(80, 60)]])
    with prune(model, STRATEGY) as pruning:
        unguarded, before = forward(model, inputs), pruning.report
    with prune(model, STRATEGY, guard=cost_model(model, own=0.0)) as pruning:
        guarded, report = forward(model, inputs), pruning.report
    assert same(guarded, unguarded)
    assert before.guard is None
    assert report.guard.pays
    assert report.sequence_lengths == before.sequence_lengths
    assert "guard: pruned" in str(report)


@pytest.mark.parametrize("samples", [[[(80, 60)]], [[(42, 42)], [(30, 120)], []], [[(80, 60), (42, 42)], [(42, 42)]]])
def test_expected_times_are_those_of_the_rows_that_layers_really_process(samples):
    """The batch's longest sample decides every layer, and each unit is scored."""
    model = tiny_onevision()
    inputs = image_inputs(model, samples)
    with prune(model, STRATEGY, guard=cost_model(model, own=1e-6)) as pruning:
        forward(model, inputs)
        report = pruning.report
    batch, units = len(samples), len(report.units)
    assert report.guard.pays
    assert report.guard.unpruned_seconds == pytest.approx(batch * report.full_length * 1e-3)
    mean = sum(report.sequence_lengths) / LAYERS
    assert report.guard.pruned_seconds == pytest.approx(batch * mean * 1e-3 + units * 1e-6)


def test_the_decision_is_taken_anew_for_every_forward():
    """Between the gains of a small and of a large image, one is left alone and the other is not."""
    model = tiny_onevision()
    small, large = image_inputs(model, [[(42, 42)]]), image_inputs(model, [[(84, 84)]])
    decisions, gains = [], []
    with prune(model, STRATEGY, guard=cost_model(model, own=0.0)) as pruning:
        for inputs in (small, large):
            forward(model, inputs)
            expected = pruning.report.guard
            gains.append(expected.unpruned_seconds - expected.pruned_seconds)
    assert gains[0] < gains[1]
    with prune(model, STRATEGY, guard=cost_model(model, own=sum(gains) / 2)) as pruning:
        for inputs in (small, large, small):
            forward(model, inputs)
            decisions.append(pruning.report.guard.pays)
    assert decisions == [False, True, False]


@pytest.mark.parametrize("own", [0.0, 1e6])
def test_generation_goes_on_after_the_decision(own):
    model = tiny_onevision()
    inputs = image_inputs(model, [[(42, 42)], [(80, 60)]])
    plain = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    with prune(model, STRATEGY, guard=cost_model(model, own=own)) as pruning:
        answer = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        assert pruning.report.guard.pays is (own == 0.0)
    assert answer.shape == plain.shape
    if own:
        assert torch.equal(answer, plain)
    assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=False), plain)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"architecture": "another model"}, "architecture 'another model', not 'LlavaOnevision"),
        ({"device": "a faster one"}, "device 'a faster one', not 'CPU"),
        ({"dtype": "float16"}, "dtype 'float16', not 'float32'"),
        ({"num_layers": 7}, "num_layers 7, not 6"),
        ({"pruning": ()}, "has not measured calibrated-attention"),
    ],
)
def test_times_of_something_else_are_refused_before_anything_is_installed(change, named):
    model = tiny_onevision()
    inputs = image_inputs(model, [[(42, 42)]])
    upstream = forward(model, inputs)
    with pytest.raises(CostError, match=named):
        prune(model, STRATEGY, guard=cost_model(model, own=0.0, **change))
    assert same(forward(model, inputs), upstream)


def test_another_dtype_or_depth_of_the_model_is_another_setting():
    model = tiny_onevision()
    guard = cost_model(model, own=0.0)
    with pytest.raises(CostError, match=r"dtype 'float32', not 'bfloat16'"):
        prune(model.to(torch.bfloat16), STRATEGY, guard=guard)
    with pytest.raises(CostError, match=r"architecture .*sdpa attention', not .*eager attention'"):
        prune(tiny_onevision("eager"), STRATEGY, guard=guard)


def test_other_weights_are_the_same_setting():
    guard = cost_model(tiny_onevision(seed=0), own=0.0)
    prune(tiny_onevision(seed=1), STRATEGY, guard=guard)


def test_an_adapter_that_knows_nothing_of_times_cannot_be_guarded():
    from vflowopt.budgets.calibration import prune_guarded

    class Plain:
        name = "plain"

        def prune(self, model, strategy, *, processor=None):
            return model, strategy, processor

    model = tiny_onevision()
    assert prune_guarded(Plain(), model, STRATEGY, "processor") == (model, STRATEGY, "processor")
    with pytest.raises(UnsupportedOperationError, match=r"'plain' has no calibrate"):
        prune_guarded(Plain(), model, STRATEGY, None, cost_model(model, own=0.0))
