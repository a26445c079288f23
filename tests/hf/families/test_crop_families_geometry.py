"""InternVL, Idefics3 and SmolVLM: crops, their patches and tokens, and the images they make, against upstream."""

import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.smolvlm.processing_smolvlm import SmolVLMProcessor

from support.cases import idefics3, internvl, smolvlm
from support.tiny import random_image
from vflowopt import Strategy, prune
from vflowopt.errors import InputError, UnsupportedModelError, UnsupportedOperationError
from vflowopt_hf.vision.capture import TorchAttention, capture_attention

CASES = {case.CASE.family.name: case for case in (internvl, idefics3, smolvlm)}
SPLIT = {"size": {"longest_edge": 96}}  # makes SmolVLM split images, as Idefics3 does

families = pytest.mark.parametrize("name", CASES)


def pixel_inputs(name, samples, **options):
    """Upstream's image processor on samples of several images each."""
    options = options or (SPLIT if name == "smolvlm" else {})
    images = [[random_image(*size, seed=index) for index, size in enumerate(sizes)] for sizes in samples]
    made = CASES[name].image_processor(**options)(images, return_tensors="pt")
    return {key: made[key] for key in ("pixel_values", "pixel_attention_mask") if key in made}


def silent(module, query, key, value, *args, **kwargs):
    """Attention that mixes nothing."""
    return torch.zeros_like(query.transpose(1, 2)), None


@pytest.fixture
def no_mixing(monkeypatch):
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", silent)


def crops(pixels):
    """All crops that are no padding, [crops, 3, side, side]."""
    flat = pixels.flatten(0, -4) if pixels.ndim == 5 else pixels
    return flat[(flat != 0).flatten(1).any(1)]


@families
def test_a_token_is_where_its_pixels_are(name, no_mixing):
    """Without attention a token's gradient shows the pixels it is made of; the units must name just these."""
    case = CASES[name]
    family, model = case.CASE.family, case.CASE.model("sdpa")
    inputs = pixel_inputs(name, [[(60, 100)], [(48, 48), (100, 100)]])
    units = family.units(model, "image", inputs)
    pixels = inputs["pixel_values"].requires_grad_()
    features = model.model.get_image_features(**inputs).pooler_output
    features = torch.cat([feature.reshape(-1, feature.shape[-1]) for feature in features])
    assert len(features) == sum(unit.layout.tokens for unit in units)
    assert len(units) == len(crops(pixels.detach()))

    patch, first = case.PATCH, 0
    side = case.SIDE // patch
    rng = np.random.default_rng(0)
    for view, unit in enumerate(units):
        assert unit.views == slice(view, view + 1)
        cell = case.SIDE // int(unit.layout.tokens**0.5)
        for token in rng.choice(unit.layout.tokens, 6, replace=False):
            (gradient,) = torch.autograd.grad(features[first + token].sum(), pixels, retain_graph=True)
            real = (pixels.detach() != 0).flatten(-3).any(-1)
            seen = (gradient[real] != 0).any(1).numpy()  # [crops, side, side]
            expected = np.zeros_like(seen)
            _, row, column = unit.layout.position[token]
            expected[view, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = True
            np.testing.assert_array_equal(seen, expected)

            patches = torch.from_numpy(seen[view]).unfold(0, patch, patch).unfold(1, patch, patch).float().mean((2, 3))
            tokens = unit.to_tokens(patches.reshape(1, side * side))
            assert tokens.tolist() == [float(index == token) for index in range(unit.layout.tokens)]
        first += unit.layout.tokens


@families
def test_attention_is_what_upstream_computes(name):
    case = CASES[name]
    family, model = case.CASE.family, case.CASE.model("eager")
    inputs = pixel_inputs(name, [[(60, 100)], [(48, 48)]])
    observed = capture_attention(family.vision_attention(model), family.class_tokens)
    with observed as capture, capture.recording() as calls, torch.no_grad():
        output = model.model.get_image_features(**inputs, output_attentions=True)
    seen = TorchAttention.of_calls(calls, family.class_tokens)
    expected = output.attentions[-1].mean(1)[:, family.class_tokens :, family.class_tokens :]
    assert len(seen) == len(crops(inputs["pixel_values"])) == len(family.units(model, "image", inputs))
    torch.testing.assert_close(seen.received(), expected.sum(1), rtol=0, atol=2e-5)
    assert expected.sum(1).std() > 0.1  # attention is not uniform, so the comparison means something


@pytest.mark.parametrize(("chosen", "block"), [(-1, 2), (-2, 1), (3, 2), (1, 0)])
def test_internvl_observes_the_layer_that_the_projector_uses(chosen, block):
    """Only gradients of blocks up to the observed one reach the features."""
    model = internvl.tiny_internvl(vision_feature_layer=chosen)
    layers = model.model.vision_tower.encoder.layer
    assert internvl.CASE.family.vision_attention(model) is layers[block].attention
    pixels = pixel_inputs("internvl", [[(48, 48)]])["pixel_values"]
    model.model.get_image_features(pixels).pooler_output.sum().backward()
    used = [layer.attention.q_proj.weight.grad is not None for layer in layers]
    assert used == [index <= block for index in range(3)]


def test_internvl_without_vision_attention_is_refused():
    model = internvl.tiny_internvl(vision_feature_layer=0)
    with pytest.raises(UnsupportedModelError, match="vision_feature_layer=0 selects the tower's embedding"):
        internvl.CASE.family.vision_attention(model)


WORDS = re.compile(r"<.+?>|\n\n|\n|.")


def token_ids(text, known):
    """A tokenizer: the placeholder is 1, everything else gets ids from 2 on as it comes."""
    return np.array([known.setdefault(word, len(known) + 1) for word in WORDS.findall(text)])


def splits(rows, columns, name):
    """What upstream's processor writes for an image of so many crops of 4 placeholders."""
    if name == "internvl":
        processor = SimpleNamespace(
            start_image_token="<img>", end_image_token="</img>", image_token="<image>", image_seq_length=4
        )
        return InternVLProcessor.replace_image_token(processor, {"num_patches": [max(rows * columns + 1, 1)]}, 0)
    tags = {"global_image_tag": "<global-img>", "global_image_token": "<global-img>"}
    processor = SimpleNamespace(
        fake_image_token="<fake_token_around_image>", image_token="<image>", image_seq_len=4, **tags
    )
    upstream = SmolVLMProcessor if name == "smolvlm" else Idefics3Processor
    return upstream.replace_image_token(processor, {"rows": [[rows]], "cols": [[columns]]}, 0)


def frames(count, name):
    """What upstream's processor writes for a video of so many frames of 4 placeholders."""
    if name == "internvl":
        processor = SimpleNamespace(
            start_image_token="<img>", end_image_token="</img>", image_token="<image>", image_seq_length=4
        )
        video = {"pixel_values_videos": [np.zeros((count, 3, 1, 1))]}
        return InternVLProcessor.replace_video_token(processor, video, 0)
    return "".join(f"\nFrame from 00:0{index}:{splits(0, 0, name)}" for index in range(count))


@families
@pytest.mark.parametrize(
    "grids",
    [[(2, 2)], [(0, 0)], [(1, 2), (2, 1)], [(3, 4), (0, 0), (0, 0), (1, 2)], [(0, 0), (4, 4)], []],
    ids=str,
)
def test_the_prompt_tells_which_crops_make_an_image(name, grids):
    model = SimpleNamespace(config=SimpleNamespace(image_token_id=1))
    for between, global_name in itertools.product(["", "x", "\n", "\n\n"], ["<global-img>", "abc"]):
        text = "ab" + between.join(splits(rows, columns, name) for rows, columns in grids) + "yz"
        ids = token_ids(text.replace("<global-img>", global_name), {"<image>": 1})  # of one token, or of several
        lengths = CASES[name].CASE.family.tokens_per_unit(model, "image", ids)
        assert list(lengths) == [4 * (rows * columns + 1) for rows, columns in grids]


@families
def test_every_frame_of_a_video_is_a_unit(name):
    model = SimpleNamespace(config=SimpleNamespace(image_token_id=1))
    ids = token_ids(frames(3, name) + splits(1, 2, name), {"<image>": 1})
    assert list(CASES[name].CASE.family.tokens_per_unit(model, "image", ids)) == [4, 4, 4, 12]


def batch(name, samples):
    """Inputs for a batch; the crops of each image are counted by processing it alone."""
    case = CASES[name]
    model, pixels = case.CASE.model("sdpa"), pixel_inputs(name, samples)
    per_crop = case.CASE.family.units(model, "image", pixels)[0].layout.tokens
    words, prompts, tokens = np.random.default_rng(0), [], []
    for sizes in samples:
        ids = list(words.integers(case.FIRST_WORD, 64, 3))
        for size in sizes:
            count = len(crops(pixel_inputs(name, [[size]])["pixel_values"]))
            unit = SimpleNamespace(layout=SimpleNamespace(tokens=count * per_crop))
            prompt = idefics3.split_prompt(count // 2, 2 if count > 1 else 0, per_crop)
            ids += case.image_prompt(model, "image", unit, case.IMAGE) if name == "internvl" else prompt
            tokens.append(count * per_crop)
        prompts.append([int(each) for each in [*ids, *words.integers(case.FIRST_WORD, 64, 5)]])
    longest = max(map(len, prompts))
    inputs = {
        "input_ids": torch.tensor([[case.PAD] * (longest - len(ids)) + ids for ids in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts]),
        **pixels,
    }
    return model, inputs, tokens, per_crop


STRATEGY = Strategy.vflowopt(num_layers=6, retention=(0.3, 0.6, 0.5), threshold=1.1)


@families
@pytest.mark.parametrize("beams", [1, 3])
def test_the_budget_is_that_of_the_image_not_of_the_crop(name, beams):
    model, inputs, tokens, per_crop = batch(name, [[(100, 100), (40, 48)], [(40, 96)]])
    assert tokens[0] > per_crop
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        model.generate(**inputs, max_new_tokens=3, num_beams=beams, suppress_tokens=[CASES[name].IMAGE])
        plans = pruning.plan
    assert [plan.tokens for plan in plans] == [count for sample in (tokens[:2], tokens[2:]) for count in sample * beams]
    shares = [np.bincount(plan.position[plan.kept[0], 0], minlength=plan.tokens // per_crop) for plan in plans]
    for plan, share in zip(plans, shares, strict=True):
        assert len(plan.kept[0]) == int(0.3 * plan.tokens + 0.5)
        assert share.sum() == len(plan.kept[0])
        assert plan.position[:, 0].max() == plan.tokens // per_crop - 1  # a grid per crop
    assert any(np.ptp(share) > 1 for share in shares)  # some crop has more to say than another


@families
def test_images_that_are_no_whole_crops_are_refused(name):
    """As many placeholders as features, so that upstream accepts them."""
    model, inputs, (tokens, _), _ = batch(name, [[(40, 48), (40, 48)]])
    ids = inputs["input_ids"][0]
    rows = (ids == CASES[name].IMAGE).nonzero()[:, 0]
    ids[rows[-1]], ids[rows[tokens - 1] + 1] = ids[rows[tokens - 1] + 1].clone(), CASES[name].IMAGE
    with prune(model, STRATEGY), torch.no_grad(), pytest.raises(InputError, match="as whole units per sample"):
        model(**inputs)


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_masked_patches_are_refused(name):
    family, model = CASES[name].CASE.family, CASES[name].CASE.model("sdpa")
    patch = CASES[name].PATCH
    inputs = pixel_inputs(name, [[(100, 100)], [(96, 40)]])
    assert not inputs["pixel_attention_mask"].all()  # padding crops are masked, and no matter
    units = family.units(model, "image", inputs)
    inputs["pixel_attention_mask"][1, 2, -patch + 1 :] = 0  # upstream attends to a patch as long as a pixel is left
    assert len(family.units(model, "image", inputs)) == len(units)
    inputs["pixel_attention_mask"][1, 2, -patch:] = 0
    with pytest.raises(UnsupportedOperationError, match="pixel_attention_mask hides patches"):
        family.units(model, "image", inputs)


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_padding_crops_are_those_that_upstream_drops(name):
    """Among them images that happen to be 0 throughout; of which SmolVLM encodes one if there is no other."""
    family, model = CASES[name].CASE.family, CASES[name].CASE.model("sdpa")
    pixels = torch.randn(2, 3, 3, 48, 48)
    pixels[0, 1], pixels[1, 2] = 0, 0
    encoded = []
    model.model.vision_model.embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: encoded.append(kwargs["pixel_values"]), with_kwargs=True
    )
    batches = [pixels, torch.zeros_like(pixels)] if name == "smolvlm" else [pixels]
    for given in batches:
        with torch.no_grad():
            model.model.get_image_features(given)
        assert torch.equal(given.flatten(0, 1)[family.real_crops(given.flatten(0, 1))], encoded.pop())


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 2), (2, 2)])
def test_the_kit_writes_prompts_as_upstream_does(name, rows, columns):
    """Up to the choice of ids."""
    known = {
        "<image>": idefics3.IMAGE,
        "<fake_token_around_image>": idefics3.AROUND,
        "<global-img>": idefics3.GLOBAL,
        "\n": idefics3.NEWLINE,
        "\n\n": idefics3.BLANK_LINE,
    }
    for row, column in itertools.product(range(2), range(2)):
        known[f"<row_{row + 1}_col_{column + 1}>"] = idefics3.FIRST_CROP + 2 * row + column
    assert token_ids(splits(rows, columns, name), known).tolist() == idefics3.split_prompt(rows, columns, 4)
