"""LLaVA-1.5, LLaVA-NeXT and LLaVA-NeXT-Video: from patches to tokens, against upstream's own packing of features."""

import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig

from support.cases.llava import tiny_llava
from support.cases.llava_next import image_processor, tiny_llava_next
from support.cases.llava_next_video import tiny_llava_next_video
from support.packing import upstream_pooled, upstream_tokens
from support.tiny import CROP, SIDE, random_image
from vflowopt_hf.families.llava import Llava
from vflowopt_hf.families.llava_next import LlavaNext
from vflowopt_hf.families.llava_next_video import LlavaNextVideo

SIZES = [
    (42, 42), (84, 84), (80, 60), (60, 80), (42, 84), (84, 42), (42, 126), (126, 42), (30, 150), (150, 30),
    (10, 200), (200, 10), (7, 7), (500, 333), (41, 43), (333, 90),
]  # fmt: skip


def random_map(views, patches=SIDE * SIDE):
    return torch.rand(views, patches, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_tiled_image(size):
    model = tiny_llava_next()
    made = image_processor()(random_image(*size), return_tensors="pt")
    (unit,) = LlavaNext().units(model, "image", dict(made))
    structural, position = unit.layout.structural, unit.layout.position

    def upstream(patch_map):
        return upstream_tokens(model, lambda: model.model.get_image_features(**made), patch_map)[0]

    patch_map = random_map(unit.views.stop)
    assert torch.equal(unit.to_tokens(patch_map), upstream(patch_map))
    # Structural tokens are upstream's newlines: the only tokens that see none of an all-ones map.
    assert np.array_equal(structural, (upstream(torch.ones_like(patch_map)) == 0).numpy())

    # Number the patches of the base crop, and those of the stitched tiles, by row and by column: upstream cuts a margin
    # off the stitched grid, the layout counts from there.
    across = model_grid(model, made)[1]
    tile, patch = np.arange(unit.views.stop - 1), np.arange(SIDE * SIDE)
    for axis, in_view, of_tile in ((1, patch // SIDE, tile // across), (2, patch % SIDE, tile % across)):
        numbers = np.concatenate([in_view[None], in_view + SIDE * of_tile[:, None]])
        seen = upstream(torch.from_numpy(numbers).float()).numpy()
        assert np.array_equal(seen[position[:, 0] == 0], position[position[:, 0] == 0, axis])
        margin = seen[position[:, 0] == 1] - position[position[:, 0] == 1, axis]
        assert np.ptp(margin) == 0
        assert margin[0] >= 0
    assert (~structural).sum() == len(np.unique(position[~structural], axis=0))


def model_grid(model, made):
    """Tiles down and across."""
    from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

    return get_anyres_image_grid_shape(made["image_sizes"][0], model.config.image_grid_pinpoints, CROP)


@pytest.mark.parametrize("size", [(1, 100), (100, 1)])
def test_an_image_so_narrow_that_unpadding_leaves_nothing(size):
    """Upstream keeps no row of the tiles, or rows of nothing but a separator; an even grid is needed to see it."""
    tower = CLIPVisionConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=1, intermediate_size=8, image_size=36, patch_size=6
    )
    model = tiny_llava_next(vision_config=tower)
    model.config.image_grid_pinpoints = [[36, 108], [108, 36]]
    inputs = {"pixel_values": torch.zeros(1, 4, 3, 36, 36), "image_sizes": torch.tensor([size])}
    (unit,) = LlavaNext().units(model, "image", inputs)
    patch_map = random_map(4, 36)
    (expected,) = upstream_tokens(model, lambda: model.model.get_image_features(**inputs), patch_map)
    assert torch.equal(unit.to_tokens(patch_map), expected)
    assert unit.layout.structural.tolist() == [False] * 36 + [True] * (0 if size[0] == 1 else 18)


@pytest.mark.parametrize("padding", [True, False])
def test_every_image_of_a_prompt_is_tiled(padding):
    """With padding views up to the largest image, and without."""
    model = tiny_llava_next()
    images = [random_image(*size, seed) for seed, size in enumerate([(42, 42), (84, 84), (30, 150)])]
    made = dict(image_processor()(images, return_tensors="pt"))
    views = [unit.views for unit in LlavaNext().units(model, "image", made)]
    if not padding:
        pixels = zip(made["pixel_values"], views, strict=True)
        made["pixel_values"] = torch.cat([own[: view.stop - view.start] for own, view in pixels])
    units = LlavaNext().units(model, "image", made)
    patch_map = random_map(units[-1].views.stop)
    expected = upstream_tokens(model, lambda: model.model.get_image_features(**made), patch_map)
    statistics = LlavaNext.pixel_statistics
    for unit, tokens, image in zip(units, expected, images, strict=True):
        assert torch.equal(unit.to_tokens(patch_map[unit.views]), tokens)
        assert unit.views.stop - unit.views.start > 1
        alone = dict(image_processor()(image, return_tensors="pt"))
        (single,) = LlavaNext().units(model, "image", alone)
        assert torch.equal(unit.entropy(statistics), single.entropy(statistics))


def test_one_crop_is_one_grid():
    model, pixels = tiny_llava(), torch.zeros(3, 3, CROP, CROP)
    units = Llava().units(model, "image", {"pixel_values": pixels})
    patch_map = random_map(3)
    expected = upstream_tokens(model, lambda: model.model.get_image_features(pixels), patch_map)
    for unit, tokens in zip(units, expected, strict=True):
        assert torch.equal(unit.to_tokens(patch_map[unit.views]), tokens)
        assert unit.layout.position.tolist() == [[0, row, column] for row in range(SIDE) for column in range(SIDE)]


@pytest.mark.parametrize("mode", ["average", "max", "conv"])
@pytest.mark.parametrize("stride", [2, 3])
def test_video(mode, stride):
    """Tokens stand for squares of patches; 7 patches in pairs leave a margin, in threes another."""
    model = tiny_llava_next_video(spatial_pool_mode=mode, spatial_pool_stride=stride)
    videos = torch.zeros(2, 4, 3, CROP, CROP)
    units = LlavaNextVideo().units(model, "video", {"pixel_values_videos": videos})
    patch_map = random_map(8)
    expected = upstream_pooled(model, lambda: model.model.get_video_features(videos), patch_map)
    assert [unit.views for unit in units] == [slice(0, 4), slice(4, 8)]
    for unit, tokens in zip(units, expected, strict=True):
        found, own = unit.to_tokens(patch_map[unit.views]), patch_map[unit.views].reshape(4, SIDE, SIDE)
        assert len(found) == len(tokens) == unit.layout.tokens
        assert not unit.layout.structural.any()
        for index, (frame, row, column) in enumerate(unit.layout.position):
            square = own[frame, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
            torch.testing.assert_close(found[index], square.mean(), rtol=0, atol=2e-7)
            if mode == "max":
                assert tokens[index] == square.max()
        if mode == "average":
            torch.testing.assert_close(found, tokens, rtol=0, atol=2e-7)


def test_a_video_of_real_size():
    """32 frames of 24 x 24 patches become 12 x 12 tokens each."""
    tower = CLIPVisionConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=1, intermediate_size=8, image_size=336, patch_size=14
    )
    model = tiny_llava_next_video(vision_config=tower)
    videos = torch.zeros(1, 1, 3, 336, 336).expand(1, 32, 3, 336, 336)
    (unit,) = LlavaNextVideo().units(model, "video", {"pixel_values_videos": videos})
    assert unit.layout.tokens == 32 * 12 * 12
    patch_map = random_map(32, 24 * 24)
    (expected,) = upstream_pooled(model, lambda: model.model.get_video_features(videos), patch_map)
    torch.testing.assert_close(unit.to_tokens(patch_map), expected, rtol=0, atol=2e-7)
