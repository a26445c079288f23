"""The way from patches to tokens against upstream's own packing of features."""

import itertools

import numpy as np
import pytest
import torch

from support.packing import upstream_tokens
from support.tiny import CROP, PATCH, SIDE, image_inputs, image_processor, random_image, tiny_onevision, video_inputs
from vflowopt_hf.families.llava_onevision import LlavaOnevision

SIZES = [
    (42, 42), (84, 84), (80, 60), (60, 80), (42, 84), (84, 42), (42, 126),
    (126, 42), (30, 150), (150, 30), (10, 200), (200, 10), (7, 7), (500, 333),
    (41, 43), (333, 90),
]  # fmt: skip
FAMILY = LlavaOnevision()


@pytest.mark.parametrize("aspect", ["anyres_max_9", "anyres_max_1"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_single_image(size, aspect):
    model = tiny_onevision(aspect=aspect)
    made = image_processor()(random_image(*size), return_tensors="pt")
    (unit,) = FAMILY.units(model, "image", dict(made))
    patch_map = torch.rand(unit.views.stop, SIDE * SIDE, generator=torch.Generator().manual_seed(0))
    (expected,) = upstream_tokens(model, lambda: model.model.get_image_features(**made), patch_map)
    found = unit.to_tokens(patch_map)
    assert found.shape == expected.shape == (unit.layout.tokens,)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-7)

    # Structural tokens are upstream's newlines: the only tokens that see none of an all-ones map.
    (ones,) = upstream_tokens(model, lambda: model.model.get_image_features(**made), torch.ones_like(patch_map))
    assert np.array_equal(unit.layout.structural, (ones == 0).numpy())

    # Coordinates: push row and column numbers of the stitched grid through upstream; token order must agree.
    position = unit.layout.position[~unit.layout.structural]
    assert len(np.unique(position, axis=0)) == len(position)
    stitched = position[:, 0] == 1
    views_down, views_across = grid_of_views(model, made["image_sizes"][0])
    number = torch.arange(SIDE * SIDE).float()
    for axis, own, offset in ((1, number // SIDE, torch.arange(views_down).repeat_interleave(views_across)),
                              (2, number % SIDE, torch.arange(views_across).repeat(views_down))):  # fmt: skip
        coordinate = torch.cat([own[None], own[None] + SIDE * offset[:, None]])
        (seen,) = upstream_tokens(model, lambda c=coordinate: model.model.get_image_features(**made), coordinate)
        seen = seen.numpy()[~unit.layout.structural]
        assert np.array_equal(seen[~stitched], position[~stitched, axis])
        # In the stitched grid coordinates grow with the token's row or column, and depend on nothing else.
        means = [seen[stitched][position[stitched, axis] == i] for i in range(position[stitched, axis].max() + 1)]
        assert all(np.ptp(group) < 1e-3 for group in means)
        assert all(a.mean() < b.mean() for a, b in itertools.pairwise(means))


def grid_of_views(model, size):
    from transformers.models.llava_onevision.modeling_llava_onevision import get_anyres_image_grid_shape

    return get_anyres_image_grid_shape(size, model.config.image_grid_pinpoints, CROP)


def test_some_size_is_interpolated():
    """Guards the cases above: with a small budget the stitched grid really is resampled."""
    made = image_processor()(random_image(84, 84), return_tensors="pt")
    tokens = [
        FAMILY.units(tiny_onevision(aspect=aspect), "image", dict(made))[0].layout.tokens
        for aspect in ("anyres_max_9", "anyres_max_1")
    ]
    assert tokens[1] < tokens[0]


def test_several_images_per_sample():
    model = tiny_onevision()
    inputs = image_inputs(model, [[(42, 42), (60, 90)], [(84, 84)]])
    arguments = {name: inputs[name] for name in ("pixel_values", "image_sizes", "batch_num_images")}
    units = FAMILY.units(model, "image", arguments)
    views = units[-1].views.stop
    patch_map = torch.rand(views, SIDE * SIDE, generator=torch.Generator().manual_seed(0))
    expected = upstream_tokens(model, lambda: model.model.get_image_features(**arguments), patch_map)
    for unit, tokens in zip(units, expected, strict=True):
        torch.testing.assert_close(unit.to_tokens(patch_map[unit.views]), tokens, rtol=0, atol=2e-7)
        assert unit.layout.tokens == len(tokens)


def test_video():
    model = tiny_onevision()
    videos = video_inputs(5, batch=2)["pixel_values_videos"]
    units = FAMILY.units(model, "video", {"pixel_values_videos": videos})
    patch_map = torch.rand(10, SIDE * SIDE, generator=torch.Generator().manual_seed(0))
    expected = upstream_tokens(model, lambda: model.model.get_video_features(videos), patch_map)
    for unit, tokens in zip(units, expected, strict=True):
        torch.testing.assert_close(unit.to_tokens(patch_map[unit.views]), tokens, rtol=0, atol=2e-7)
        assert unit.layout.structural.tolist() == [False] * (len(tokens) - 1) + [True]
        assert set(unit.layout.position[:-1, 0]) == set(range(5))


def test_a_video_of_real_size():
    """32 frames of 27 x 27 patches become 14 x 14 tokens each, and one separator follows."""
    model = tiny_onevision(side=27)
    videos = torch.zeros(1, 1, 3, 27 * PATCH, 27 * PATCH).expand(1, 32, -1, -1, -1)
    (unit,) = FAMILY.units(model, "video", {"pixel_values_videos": videos})
    patch_map = torch.rand(32, 27 * 27, generator=torch.Generator().manual_seed(0))
    (expected,) = upstream_tokens(model, lambda: model.model.get_video_features(videos), patch_map)
    assert unit.layout.tokens == 32 * 196 + 1
    torch.testing.assert_close(unit.to_tokens(patch_map), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize(("feature_layer", "block"), [(-1, 2), (-2, 1), (1, 0), ([-3, -2], 1)])
def test_the_observed_layer_is_the_last_that_the_projector_uses(feature_layer, block):
    """Entry i of the hidden states is the output of block i - 1; entry 0 is the embedding."""
    model = tiny_onevision()
    model.config.vision_feature_layer = feature_layer
    layers = model.model.vision_tower.encoder.layers
    assert FAMILY.vision_attention(model) is layers[block].self_attn
