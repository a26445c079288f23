"""Retention 1 without recycling is upstream, bit for bit."""

import pytest
import torch

from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import Strategy, prune

KEEP_ALL = Strategy.vflowopt(num_layers=LAYERS, retention=(1.0, 1.0, 1.0), threshold=1.5, entropy_weight=0.3)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    "samples", [[[(80, 60)]], [[(42, 42)], [(30, 120)], [], [(84, 84)]]], ids=["batch 1", "batch 4"]
)
def test_bitwise_upstream(attention, samples):
    model = tiny_onevision(attention)
    inputs = image_inputs(model, samples)
    with torch.no_grad():
        logits = model(**inputs).logits
        tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        with prune(model, KEEP_ALL) as pruning:
            pruned_logits = model(**inputs).logits
            pruned_tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)
            assert pruning.report.retention == 1.0
            assert pruning.report.kv_cache_bytes == pruning.report.kv_cache_bytes_unpruned
    assert torch.equal(logits, pruned_logits)
    assert torch.equal(tokens, pruned_tokens)


def test_text_only_is_left_alone():
    model = tiny_onevision()
    inputs = image_inputs(model, [[], []])
    strategy = Strategy.vflowopt(num_layers=LAYERS, retention=(0.2, 0.5, 0.5), cell=2.0)
    with torch.no_grad():
        expected = model(**inputs).logits
        with prune(model, strategy):
            assert torch.equal(model(**inputs).logits, expected)
