"""The benchmark: FLOPs agree with torch's own counter, rows are what ran, the model is left as it was."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from support import tiny
from vflowopt import Strategy
from vflowopt.adapter import Adapter
from vflowopt.benchmark import PARTS
from vflowopt.errors import InputError, StrategyError
from vflowopt_hf.adapters import llava_onevision
from vflowopt_hf.flops import prefill_flops

STRATEGY = Strategy.vflowopt(num_layers=tiny.LAYERS, retention=(0.6, 0.7, 0.5), threshold=1.0, cell=2.0)


@pytest.fixture(scope="module")
def model():
    return tiny.tiny_onevision()


@pytest.fixture(scope="module")
def inputs(model):
    return tiny.image_inputs(model, [[(60, 84)]])


@pytest.mark.parametrize("rows", [1, 7, 40])
def test_flops_agree_with_torch(rows):
    decoder = tiny.tiny_onevision("eager").model.language_model  # torch does not count its fused attention on the CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder(input_ids=torch.ones(1, rows, dtype=torch.long))
    expected = counter.get_total_flops()
    assert prefill_flops(decoder.config, [rows] * tiny.LAYERS, causal=False) == expected


def test_causal_attention_needs_half_of_the_pairs(model):
    config = model.model.language_model.config
    both = prefill_flops(config, [100], causal=False) - prefill_flops(config, [100])
    assert both == 4 * config.hidden_size * (100 * 100 - 100 * 101 // 2)


def test_rows_say_what_ran(model, inputs):
    seen = []
    bench = llava_onevision.benchmark(
        model, inputs, {"mine": STRATEGY}, rounds=2, on_task=lambda done, total: seen.append((done, total))
    )
    full, mine = bench.rows
    assert set(full.times) == set(PARTS) - {"importance", "planning"}
    assert set(mine.times) == set(PARTS) - {"vision tower"}
    assert full.lengths == (inputs["input_ids"].shape[1],) * tiny.LAYERS
    assert mine.tokens == (full.tokens[0], *STRATEGY.schedule.counts(full.tokens[0]))
    assert mine.flops == prefill_flops(model.model.language_model.config, mine.lengths)
    assert bench.importance_share(mine) > 0
    assert seen == [(done, 24) for done in range(1, 25)] or seen[-1][0] == seen[-1][1]


def test_the_model_is_left_as_it_was(model, inputs):
    with torch.no_grad():
        before = model(**inputs).logits
        llava_onevision.benchmark(model, inputs, {"mine": STRATEGY}, rounds=1)
        after = model(**inputs).logits
    assert torch.equal(before, after)
    assert not model.model._forward_pre_hooks


def test_what_cannot_be_measured_is_refused(model, inputs):
    with pytest.raises(StrategyError, match="beyond the last"):
        llava_onevision.benchmark(model, inputs, {"x": Strategy.preset("llava-onevision-7b/25")}, rounds=1)
    with pytest.raises(InputError, match="unpruned"):
        llava_onevision.benchmark(model, inputs, {"unpruned": STRATEGY}, rounds=1)
    with pytest.raises(InputError, match="no image"):
        llava_onevision.benchmark(model, {"input_ids": torch.ones(1, 5, dtype=torch.long)}, {}, rounds=1)


def test_shapes_are_described_without_being_built():
    adapter: Adapter = llava_onevision
    shapes = {shape.name: shape for shape in adapter.shapes()}
    assert set(shapes) == {"mid", "siglip-so400m"}
    layout = shapes["siglip-so400m"].planning_layout
    assert (layout.tokens, int((~layout.structural).sum())) == (7371, 7290)
