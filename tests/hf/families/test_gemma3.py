"""What is Gemma 3's own: pooling to tokens, pan-and-scan crops."""

import numpy as np
import pytest
import torch

from support.cases.gemma3 import BEGIN, CASE, END, IMAGE, PATCH, SIDE, TOKENS, image_processor, token_types
from support.tiny import random_image
from vflowopt import Strategy, prune
from vflowopt.plugins import find_adapter


@pytest.fixture(scope="module")
def model():
    return CASE.model("sdpa")


def pan_and_scan(image):
    options = {
        "do_pan_and_scan": True,
        "pan_and_scan_min_crop_size": 32,
        "pan_and_scan_max_num_crops": 4,
        "pan_and_scan_min_ratio_to_activate": 1.2,
    }
    return image_processor(**options)(image, return_tensors="pt")


def test_maps_are_pooled_like_the_features(model):
    pixels = image_processor()([random_image(40, 120), random_image(90, 90)], return_tensors="pt")["pixel_values"]
    units = CASE.family.units(model, "image", {"pixel_values": pixels})
    patches, side = SIDE // PATCH, int(TOKENS**0.5)
    patch_map = torch.randn(1, patches * patches)
    grid = patch_map.reshape(patches, patches).double().numpy()
    block = patches // side
    for view, unit in enumerate(units):
        assert (unit.views.start, unit.views.stop) == (view, view + 1)
        tokens = unit.to_tokens(patch_map).numpy()
        for token, (grid_view, row, column) in enumerate(unit.layout.position):
            assert grid_view == 0
            own = grid[row * block : (row + 1) * block, column * block : (column + 1) * block]
            assert tokens[token] == pytest.approx(own.mean(), abs=1e-6)
        assert unit.entropy(CASE.family.pixel_statistics).shape == (1, patches * patches)


def test_every_pan_and_scan_crop_is_a_unit(model):
    made = pan_and_scan(random_image(40, 120))
    assert made["num_crops"].tolist() == [[3]] or made["num_crops"].tolist() == [3]
    ids = [9, 10]
    for _ in range(4):
        ids += [BEGIN, *[IMAGE] * TOKENS, END, 11]
    inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    inputs |= token_types(model, inputs) | {"pixel_values": made["pixel_values"]}
    strategy = Strategy.vflowopt(num_layers=6, retention=(0.5, 0.5, 0.5), cell=2.0)
    with prune(model, strategy) as pruning, torch.no_grad():
        model(**inputs)
        report = pruning.report
    assert [(unit.sample, unit.tokens, unit.structural) for unit in report.units] == [(0, TOKENS, 0)] * 4
    assert report.sequence_lengths[-1] == len(ids) - 4 * TOKENS + 4 * int(np.floor(TOKENS / 8 + 0.5))


def test_the_adapter_is_found(model):
    assert find_adapter(model).name == "gemma3"
