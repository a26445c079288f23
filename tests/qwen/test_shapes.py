"""Qwen2-VL of full size with random weights: as large as published, and the same builder really run."""

import pytest
import torch

from vflowopt import Strategy, prune
from vflowopt_hf.families.shapes.random_model import parameters
from vflowopt_qwen import qwen2_vl_shapes
from vflowopt_qwen.adapters import qwen2_5_vl, qwen2_vl, qwen3_vl

TEXT = qwen2_vl_shapes.TEXT | {
    "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "vocab_size": 80,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 2, 2]},
}  # fmt: skip
VISION = qwen2_vl_shapes.VISION | {"depth": 2, "embed_dim": 32, "num_heads": 4}


def test_the_shape_is_as_large_as_published():
    shape = next(shape for shape in qwen2_vl.shapes() if shape.name == "qwen2-vl-7b")
    model = shape.build("meta", "auto")
    assert parameters(model) / 1e9 == pytest.approx(8.29, abs=0.005)
    assert qwen2_vl.num_layers(model) == 28
    assert qwen2_5_vl.shapes() == qwen3_vl.shapes() == ()


@pytest.mark.parametrize(("wanted", "exact"), [(1, 1), (40, 40), (97, 96)])
def test_the_builder_makes_models_that_run_and_can_be_pruned(wanted, exact):
    model = qwen2_vl_shapes.build(TEXT, VISION, "cpu", "auto")
    inputs = qwen2_vl_shapes.qwen2_vl_inputs(qwen2_vl.family, model, wanted, 12)
    strategy = Strategy.vflowopt(num_layers=4, retention=(0.8, 0.8, 0.8), threshold=1.0)
    with prune(model, strategy) as pruning, torch.no_grad():
        logits = model(**inputs).logits
    assert torch.isfinite(logits).all()
    assert pruning.report.units[0].tokens == exact
    assert inputs["input_ids"].shape == (1, exact + 12)


def test_buffers_are_those_of_the_constructor():
    model = qwen2_vl_shapes.build(TEXT, VISION, "cpu", "bfloat16")
    upstream = type(model)(model.config)
    own, theirs = dict(model.named_buffers()), dict(upstream.named_buffers())
    assert set(own) == set(theirs) != set()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
