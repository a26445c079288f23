"""Attention that is computed view by view, or packed, is observed as it is."""

import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_vl import modeling_qwen2_vl

from support.tiny_qwen import LAYERS, qwen_inputs, tiny_qwen2_vl
from vflowopt import Strategy, prune
from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.vision.encoders import tap_encoders
from vflowopt_qwen.qwen2_vl import Qwen2VL

SAMPLES = [[(24, 36), (60, 24), (4, 24, 36)], [(36, 36)]]
STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, cell=2.5)


def encode(model, inputs):
    """Both encoders' features."""
    with torch.no_grad():
        image = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
        video = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"])
    return [image, video]


def features(outputs):
    return torch.cat([part for output in outputs for part in output.pooler_output])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_captured_attention_is_what_eager_attention_weighs(attention, monkeypatch):
    inputs = qwen_inputs(SAMPLES)
    weights = []
    eager = modeling_qwen2_vl.eager_attention_forward

    def spy(module, *args, **kwargs):
        output, found = eager(module, *args, **kwargs)
        if module is reference.model.visual.blocks[-1].attn:
            weights.append(found[0].mean(0))  # heads
        return output, found

    reference = tiny_qwen2_vl("eager")
    monkeypatch.setattr(modeling_qwen2_vl, "eager_attention_forward", spy)
    encode(reference, inputs)
    monkeypatch.undo()
    assert [len(w) for w in weights] == [24, 40, 36, 24, 24]

    model = tiny_qwen2_vl(attention)
    before = features(encode(model, inputs))
    with tap_encoders(Qwen2VL(), model) as tap:
        outputs = encode(model, inputs)
        found = tap.find({"image": outputs[0], "video": outputs[1]})
    assert torch.equal(features(outputs), before)
    sources = [encoding.attention.views(unit.views) for encoding in found for unit in encoding.units]
    expected = [[weights[0]], [weights[1]], [weights[2]], weights[3:]]
    generator = torch.Generator().manual_seed(0)
    for source, matrices in zip(sources, expected, strict=True):
        matrix = torch.stack(matrices)
        torch.testing.assert_close(source.received(), matrix.sum(1), rtol=1e-5, atol=1e-5)
        chosen = torch.rand(matrix.shape[:2], generator=generator) < 0.3
        some = torch.einsum("vij,vi->vj", matrix, chosen.float())
        most = int(chosen.sum(1).max())
        torch.testing.assert_close(source.received(chosen, at_most=most), some, rtol=1e-5, atol=1e-5)


def test_packed_attention_is_split_into_views():
    """Flash attention gets all views in one call; a stand-in for it runs on any device."""
    model = tiny_qwen2_vl()
    inputs = qwen_inputs(SAMPLES)
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        expected, plans = model(**inputs).logits, pruning.plan
    calls = []

    def packed(module, query, key, value, *args, cu_seq_lens_q, scaling, **kwargs):
        calls.append(module)
        parts = [states.split(cu_seq_lens_q.diff().tolist(), dim=2) for states in (query, key, value)]
        each = [
            torch.nn.functional.scaled_dot_product_attention(*qkv, scale=scaling) for qkv in zip(*parts, strict=True)
        ]
        return torch.cat(each, dim=2).transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS["flash-stand-in"] = packed
    try:
        for module in model.model.visual.modules():
            if hasattr(module, "config"):
                module.config._attn_implementation_internal = "flash-stand-in"
        with prune(model, STRATEGY) as pruning, torch.no_grad():
            found = model(**inputs).logits
            for plan, other in zip(pruning.plan, plans, strict=True):
                assert [k.tolist() for k in plan.kept] == [k.tolist() for k in other.kept]
    finally:
        del ALL_ATTENTION_FUNCTIONS["flash-stand-in"]
    blocks = [block.attn for block in model.model.visual.blocks]
    assert calls == blocks * 2  # the observed block, too, was asked once per encoder
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_views_other_than_those_of_the_inputs_are_refused():
    model = tiny_qwen2_vl()
    inputs = qwen_inputs([[(24, 36), (24, 36)]])
    one = torch.tensor([0, 48], dtype=torch.int32)  # both images attend to each other
    with prune(model, STRATEGY), torch.no_grad(), pytest.raises(UnsupportedOperationError, match="saw 1 views"):
        model(**inputs, image_cu_seqlens=one)
