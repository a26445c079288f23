"""Which patch and which token is which in Qwen2.5-VL's windows and Qwen3-VL's features, against upstream's towers."""

import numpy as np
import pytest
import torch

from support.cases import qwen2_5_vl, qwen3_vl
from support.tiny_qwen import FACTOR, IMAGE, MERGE, VIDEO, qwen_inputs
from vflowopt import Strategy, prune
from vflowopt_hf.vision.encoders import tap_encoders
from vflowopt_qwen.qwen2_5_vl import Qwen25VL

SAMPLES = [[(60, 84), (24, 96), (4, 36, 60)], [(12, 12), (108, 36)]]
STRATEGY = Strategy.vflowopt(num_layers=6, retention=(0.4, 0.6, 0.5), threshold=1.1, entropy_weight=0.5, cell=2.5)


def encode(model, inputs, modality):
    """The output of one encoder, and the attention of each of its units, as scorers see it."""
    family = Qwen25VL()
    pixels = inputs["pixel_values_videos" if modality == "video" else "pixel_values"]
    with tap_encoders(family, model) as tap, torch.no_grad():
        output = getattr(model.model, f"get_{modality}_features")(pixels, inputs[f"{modality}_grid_thw"])
        (encoding,) = tap.find({modality: output})
    sources = [encoding.attention.views(unit.views, unit.patch_order) for unit in encoding.units]
    return torch.cat(output.pooler_output), sources, encoding.units


def one_window(model):
    """The same weights in a tower whose window holds any picture, so that patches keep the processor's order.

    Blocks that attend within windows mix nothing in either model: both compute the same.
    """
    other = qwen2_5_vl.tiny_qwen2_5_vl()
    for each in (model, other):
        for index, block in enumerate(each.model.visual.blocks):
            if index not in each.model.visual.fullatt_block_indexes:
                torch.nn.init.zeros_(block.attn.proj.weight)
                torch.nn.init.zeros_(block.attn.proj.bias)
    other.model.visual.window_size = other.config.vision_config.window_size = 100 * FACTOR
    return other


@pytest.mark.parametrize("modality", ["image", "video"])
def test_attention_is_put_back_into_the_order_of_the_pixels(modality):
    model, inputs = qwen2_5_vl.tiny_qwen2_5_vl(), qwen_inputs(SAMPLES)
    other = one_window(model)
    features, sources, units = encode(model, inputs, modality)
    expected_features, expected, same = encode(other, inputs, modality)
    torch.testing.assert_close(features, expected_features, rtol=1e-5, atol=1e-5)
    generator = torch.Generator().manual_seed(0)
    for source, oracle in zip(sources, expected, strict=True):
        total = oracle.received()
        torch.testing.assert_close(source.received(), total, rtol=1e-4, atol=1e-4)
        chosen = torch.rand(total.shape, generator=generator) < 0.3
        most = int(chosen.sum(1).max())
        torch.testing.assert_close(source.received(chosen, most), oracle.received(chosen, most), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(unit.patch_order, torch.arange(len(unit.patch_order))) for unit in same)
    moved = [not torch.equal(unit.patch_order, torch.arange(len(unit.patch_order))) for unit in units]
    assert moved == ([True, True, False, True] if modality == "image" else [True])


def test_plans_do_not_depend_on_the_windows():
    model, inputs = qwen2_5_vl.tiny_qwen2_5_vl(), qwen_inputs(SAMPLES)
    other = one_window(model)
    plans = []
    for each in (model, other):
        with prune(each, STRATEGY) as pruning, torch.no_grad():
            each(**inputs)
            plans.append(pruning.plan)
    for plan, expected in zip(*plans, strict=True):
        np.testing.assert_allclose(plan.importance, expected.importance, rtol=1e-4)
        assert [kept.tolist() for kept in plan.kept] == [kept.tolist() for kept in expected.kept]


def test_the_last_block_with_full_attention_is_observed():
    model = qwen2_5_vl.tiny_qwen2_5_vl()
    assert Qwen25VL().vision_attention(model) is model.model.visual.blocks[2].attn
    lengths = []
    inputs = qwen_inputs(SAMPLES)
    handle = model.model.visual.blocks[2].attn.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.extend(kwargs["cu_seqlens"].diff().tolist()), with_kwargs=True
    )
    encode(model, inputs, "image")
    handle.remove()
    assert lengths == [140, 64, 4, 108]  # one segment per image


@pytest.mark.parametrize("case", [qwen2_5_vl.CASE, qwen3_vl.CASE], ids=["qwen2.5-vl", "qwen3-vl"])
@pytest.mark.parametrize(("placeholder", "shape"), [(IMAGE, (36, 60)), (VIDEO, (4, 36, 48))], ids=["image", "video"])
def test_a_token_is_made_of_the_patches_that_its_importance_is_of(case, placeholder, shape):
    """With attention switched off a token depends on its own patches only: features against ``to_tokens``."""
    model, inputs = case.model("sdpa"), qwen_inputs([[shape]])
    for block in model.model.visual.blocks:
        torch.nn.init.zeros_(block.attn.proj.weight)
        torch.nn.init.zeros_(block.attn.proj.bias)
    modality, name = ("image", "pixel_values") if placeholder == IMAGE else ("video", "pixel_values_videos")
    (unit,) = case.family.units(model, modality, inputs)
    pixels, grid = inputs[name], inputs[f"{modality}_grid_thw"]

    def features(values):
        with torch.no_grad():
            output = getattr(model.model, f"get_{modality}_features")(values, grid)
        return [output.pooler_output[0], *(depth[0] for depth in getattr(output, "deepstack_features", []))]

    before, slices = features(pixels), int(grid[0, 0])
    assert len(before) == (4 if case is qwen3_vl.CASE else 1)
    for patch in range(0, len(pixels), 3):
        other = pixels.clone()
        other[patch] += 1
        touched = unit.to_tokens(torch.eye(len(pixels))[patch].reshape(slices, -1)) > 0
        assert int(touched.sum()) == 1
        for old, new in zip(before, features(other), strict=True):
            assert torch.equal((old != new).any(dim=1), touched)
    positions = model.model.get_vision_position_ids(0, grid[0], 1, MERGE).T
    assert np.array_equal(unit.layout.position, positions.numpy())
