"""Models of full size with random weights: as large as published, made in place, and the same builder really run."""

import pytest
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from vflowopt import Strategy, prune
from vflowopt.errors import InputError
from vflowopt_hf.adapters import llava_next, llava_next_video, llava_onevision
from vflowopt_hf.families.shapes import llava_next as llava_next_shapes
from vflowopt_hf.families.shapes import llava_onevision as llava_onevision_shapes
from vflowopt_hf.families.shapes.pictures import nearest_size
from vflowopt_hf.families.shapes.random_model import parameters, random_model

SHAPES = {shape.name: (adapter, shape) for adapter in (llava_onevision, llava_next) for shape in adapter.shapes()}
TEXT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 48, "vocab_size": 80}  # fmt: skip
VISION = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
          "image_size": 56}  # fmt: skip


def tiny_onevision(device="cpu", dtype="auto"):
    text = llava_onevision_shapes.decoder(32, 4, 4, 2, 48)
    return llava_onevision_shapes.build(text, llava_onevision_shapes.tower(32, 3, 4, 48, side=56), device, dtype)


def tiny_next(text):
    return llava_next_shapes.build(text(**TEXT), llava_next_shapes.clip(**VISION), "cpu", "auto")


BUILT = {
    "onevision": (llava_onevision, tiny_onevision, llava_onevision_shapes.onevision_inputs),
    "vicuna": (llava_next, lambda: tiny_next(llava_next_shapes.vicuna), llava_next_shapes.next_inputs),
    "mistral": (llava_next, lambda: tiny_next(llava_next_shapes.mistral), llava_next_shapes.next_inputs),
}


@pytest.mark.parametrize(
    ("name", "billions", "layers"),
    [
        ("llava-onevision-7b", 8.03, 28),
        ("llava-next-7b", 7.06, 32),
        ("llava-next-mistral-7b", 7.57, 32),
        ("mid", 0.05, 12),
        ("large", 0.37, 24),
    ],
)
def test_shapes_are_as_large_as_published(name, billions, layers):
    """Sizes that the published checkpoints' cards name; nothing is allocated."""
    adapter, shape = SHAPES[name]
    model = shape.build("meta", "auto")
    assert parameters(model) / 1e9 == pytest.approx(billions, abs=0.005)
    assert adapter.num_layers(model) == layers
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


def test_successors_do_not_offer_the_shapes_of_their_forebears():
    assert llava_next_video.shapes() == ()


def test_planning_of_ten_views():
    layout = SHAPES["siglip-so400m"][1].planning_layout
    assert (layout.tokens, int((~layout.structural).sum())) == (7371, 7290)


@pytest.mark.parametrize("name", sorted(BUILT))
def test_the_builders_make_models_that_run_and_can_be_pruned(name):
    adapter, build, make_inputs = BUILT[name]
    model = build()
    inputs = make_inputs(adapter.family, model, 60, 12)
    strategy = Strategy.vflowopt(num_layers=4, retention=(0.8, 0.8, 0.8), threshold=1.0)
    with torch.no_grad():
        full = model(**inputs).logits
        with prune(model, strategy) as pruning:
            pruned = model(**inputs).logits
    assert torch.isfinite(full).all()
    assert torch.isfinite(pruned).all()
    assert pruning.report.units[0].tokens == inputs["input_ids"].shape[1] - 12
    bench = adapter.benchmark(model, inputs, {"it": strategy}, rounds=1)
    assert bench.text_tokens == 12


def test_buffers_are_those_of_the_constructor_and_weights_no_leftovers():
    model = tiny_onevision()
    upstream = LlavaOnevisionForConditionalGeneration(model.config)
    own, theirs = dict(model.named_buffers()), dict(upstream.named_buffers())
    assert set(own) == set(theirs) != set()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            assert not weight.any(), name
        elif "norm" in name:
            assert (weight == 1).all(), name
        else:
            assert 0.01 < weight.std() < 0.03, name
    rows = model.model.language_model.layers[0].mlp.gate_proj.weight
    assert len(torch.unique(rows, dim=0)) == len(rows)


def test_the_same_weights_every_time_in_the_dtype_asked_for():
    first, second, half = tiny_onevision(), tiny_onevision(), tiny_onevision(dtype="bfloat16")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert {weight.dtype for weight in first.parameters()} == {torch.float32}
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    rotary = half.model.language_model.rotary_emb.inv_freq
    assert torch.equal(rotary, first.model.language_model.rotary_emb.inv_freq)  # never rounded


def test_what_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 1 << 12)
    with pytest.raises(InputError, match=r"\d\d\.\d GiB as float32.*--dtype bfloat16"):
        SHAPES["llava-onevision-7b"][1].build("cpu", "float32")
    with pytest.raises(InputError, match="'floating'"):
        random_model(LlavaOnevisionForConditionalGeneration, None, "cpu", "floating")
    with pytest.raises(InputError, match="'abacus'"):
        random_model(LlavaOnevisionForConditionalGeneration, None, "abacus")


@pytest.fixture(scope="module")
def mid():
    return SHAPES["mid"][1].build("cpu", "auto")


@pytest.mark.parametrize(("wanted", "exact"), [(2000, 2000), (4450, 4450), (7290, 7371)])
def test_pictures_give_about_as_many_visual_tokens_as_wanted(mid, wanted, exact):
    """By the model's own geometry; 7,290 tokens of ten full views come with 81 separators."""
    inputs = SHAPES["mid"][1].inputs(mid, wanted, 20)
    visual = int((inputs["input_ids"] == 1).sum())
    assert visual == inputs["input_ids"].shape[1] - 20
    assert visual == pytest.approx(exact, rel=0.01)


def test_the_nearest_size_is_the_squarest_of_equals():
    sizes = [(10, 40), (20, 20), (40, 10), (30, 30)]
    assert nearest_size(401, sizes, lambda size: size[0] * size[1]) == (20, 20)
