"""Observing vision attention: right numbers and no trace. How the sums are computed: test_column_sums.py."""

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from support.tiny import image_inputs, tiny_onevision
from vflowopt.components.scorer import calibrated_attention
from vflowopt_hf.vision.capture import TorchAttention, capture_attention


def random_attention(views=3, heads=4, key_heads=4, positions=50, dim=8, class_tokens=0):
    generator = torch.Generator().manual_seed(3)
    query = 2 * torch.randn(views, heads, positions, dim, generator=generator)
    key = 2 * torch.randn(views, key_heads, positions, dim, generator=generator)
    source = TorchAttention(query, key, 0.3, class_tokens)
    wide = key.double().repeat_interleave(heads // key_heads, dim=1)
    matrix = ((query.double() @ wide.transpose(2, 3)) * 0.3).softmax(-1).mean(1)
    return source, matrix[:, class_tokens:, class_tokens:]


@pytest.mark.parametrize("class_tokens", [0, 1])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_received_is_the_column_sum(class_tokens, key_heads):
    source, matrix = random_attention(class_tokens=class_tokens, key_heads=key_heads)
    torch.testing.assert_close(source.received().double(), matrix.sum(1), rtol=1e-6, atol=1e-6)
    chosen = torch.rand(matrix.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.3
    expected = torch.einsum("vij,vi->vj", matrix, chosen.double())
    torch.testing.assert_close(source.received(chosen).double(), expected, rtol=1e-6, atol=1e-6)
    most = int(chosen.sum(1).max())
    torch.testing.assert_close(source.received(chosen, at_most=most).double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.3, 2.5, 40.0])
def test_the_bounded_second_pass_misses_no_calibration_patch(threshold):
    source, matrix = random_attention()
    received = matrix.sum(1)
    selected = received > threshold * received.mean(1, keepdim=True)
    selected[~selected.any(1)] = True
    importance, found = calibrated_attention(source, threshold)
    assert torch.equal(found, selected)
    expected = torch.einsum("vij,vi->vj", matrix, selected.double())
    torch.testing.assert_close(importance.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_tower_computes_the_same_and_is_left_as_found(attention):
    model = tiny_onevision(attention)
    module = model.model.vision_tower.encoder.layers[-1].self_attn
    pixels = image_inputs(model, [[(80, 60)]])["pixel_values"][0]
    config, known = module.config, set(ALL_ATTENTION_FUNCTIONS)
    with torch.no_grad():
        before = model.model.vision_tower(pixels).last_hidden_state
        with capture_attention(module) as capture, capture.recording() as calls:
            during = model.model.vision_tower(pixels).last_hidden_state
    assert torch.equal(before, during)
    assert module.config is config
    assert set(ALL_ATTENTION_FUNCTIONS) == known
    assert len(calls) == 1
    if attention == "eager":  # the only implementation that can tell its weights
        with torch.no_grad():
            weights = model.model.vision_tower(pixels, output_attentions=True).attentions[-1]
        torch.testing.assert_close(
            TorchAttention.of_calls(calls).received(), weights.mean(1).sum(1), rtol=1e-5, atol=1e-5
        )


def test_units_of_one_call_are_computed_together():
    """A unit's total is a part of that of all; so is what several compute together, whatever the order of patches."""
    source, matrix = random_attention()
    orders = torch.stack([torch.randperm(50, generator=torch.Generator().manual_seed(view)) for view in range(3)])
    units = [source.views(slice(0, 1), orders[0]), source.views(slice(1, 3))]
    first, second = (unit.received() for unit in units)
    assert second.untyped_storage().data_ptr() == source.received().untyped_storage().data_ptr()
    torch.testing.assert_close(first.double(), matrix.sum(1)[:1, orders[0]], rtol=1e-6, atol=1e-6)
    chosen = torch.rand(3, 50, generator=torch.Generator().manual_seed(1)) < 0.3
    inner = chosen.clone()
    inner[0, orders[0]] = chosen[0]
    expected = torch.einsum("vij,vi->vj", matrix, inner.double())
    expected[0] = expected[0, orders[0]]
    together = TorchAttention.together(units)
    torch.testing.assert_close(together.received(), torch.cat([first, second]), rtol=0, atol=0)
    for most in (None, int(chosen.sum(1).max())):
        torch.testing.assert_close(together.received(chosen, most).double(), expected, rtol=1e-6, atol=1e-6)
    anew = TorchAttention.all_fresh(units)
    totals = [unit.received() for unit in anew]
    assert torch.equal(totals[0], first)
    assert torch.equal(totals[1], second)
    assert totals[1].untyped_storage().data_ptr() != second.untyped_storage().data_ptr()
    assert TorchAttention.together(anew).received().shape == (3, 50)
    swapped = TorchAttention.together(units[::-1])
    torch.testing.assert_close(swapped.received(), torch.cat([second, first]), rtol=1e-6, atol=1e-6)


def test_patches_that_an_order_leaves_out_are_seen_by_nobody():
    generator = torch.Generator().manual_seed(3)
    query, key = (torch.randn(2, 4, 30, 8, generator=generator) for _ in range(2))
    real = TorchAttention(query, key, 0.3).views(slice(0, 2), torch.arange(20))
    alone = TorchAttention(query[:, :, :20], key[:, :, :20], 0.3)
    torch.testing.assert_close(real.received(), alone.received(), rtol=1e-6, atol=1e-6)
    assert [view.shape for view in real.keys] == [(4, 20, 8)] * 2
