"""The way from patches to tokens against upstream's merger, image processor and rotary positions."""

import numpy as np
import pytest
import torch

from support.tiny_qwen import (
    FACTOR,
    MERGE,
    PATCH,
    image_processor,
    qwen_inputs,
    tiny_qwen2_vl,
    video_patches,
)
from vflowopt.errors import InputError
from vflowopt_qwen.qwen2_vl import Qwen2VL

SIZES = [
    (12, 12), (24, 24), (24, 60), (60, 24), (12, 96), (96, 12), (36, 48), (48, 36), (84, 60), (60, 84), (72, 72),
    (108, 36), (36, 108), (72, 108),
]  # fmt: skip
FAMILY = Qwen2VL()


@pytest.fixture(scope="module")
def model():
    return tiny_qwen2_vl()


def merged_upstream(visual, pixels, grid, patch_map):
    """What upstream's tower makes of patches whose features all equal the map, its merger being a plain mean."""
    width = visual.config.embed_dim
    replacements = {
        visual.blocks[-1]: lambda module, args, out: patch_map[:, None].repeat(1, width),
        visual.merger.ln_q: lambda module, args, out: args[0],
        visual.merger.mlp: lambda module, args, out: args[0].mean(dim=-1, keepdim=True),
    }
    handles = [module.register_forward_hook(hook) for module, hook in replacements.items()]
    try:
        with torch.no_grad():
            return visual(pixels, grid_thw=grid).pooler_output[:, 0]
    finally:
        for handle in handles:
            handle.remove()


def coordinates(height, width):
    """float32 [height, width, 3]: each pixel holds its patch's row, column and 0."""
    row, column = np.indices((height, width)) // PATCH
    return np.stack([row, column, np.zeros_like(row)], axis=-1).astype(np.float32)


def patch_channel(pixels, channel):
    """The mean of one channel of flat patches."""
    return pixels.reshape(len(pixels), 3, -1)[:, channel].mean(dim=1)


def check_positions(unit, pixels, shape):
    """Tokens are where the pixels of their patches are: the mean row of a merged block is that of its middle."""
    middle = (MERGE - 1) / 2
    for axis, channel in ((1, 0), (2, 1)):
        found = (unit.to_tokens(patch_channel(pixels, channel).reshape(shape)) - middle) / MERGE
        np.testing.assert_allclose(found.numpy(), unit.layout.position[:, axis], atol=1e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_image(model, size):
    raw = image_processor(do_normalize=False, do_rescale=False, do_resize=False)
    made = raw(coordinates(*size), return_tensors="pt", input_data_format="channels_last")
    pixels, grid = made["pixel_values"], made["image_grid_thw"]
    (unit,) = FAMILY.units(model, "image", {"pixel_values": pixels, "image_grid_thw": grid})
    check_positions(unit, pixels, (1, -1))

    patch_map = torch.rand(1, len(pixels), generator=torch.Generator().manual_seed(0))
    expected = merged_upstream(model.model.visual, pixels, grid, patch_map[0])
    torch.testing.assert_close(unit.to_tokens(patch_map), expected, rtol=0, atol=2e-7)

    rotary = model.model.get_vision_position_ids(0, grid[0], 1, MERGE).T
    assert np.array_equal(unit.layout.position, rotary.numpy())
    assert unit.layout.tokens == (size[0] // FACTOR) * (size[1] // FACTOR)
    assert not unit.layout.structural.any()


@pytest.mark.parametrize(("frames", "height", "width"), [(2, 24, 36), (6, 36, 24), (8, 12, 60)])
def test_a_video(model, frames, height, width):
    video = np.broadcast_to(coordinates(height, width), (frames, height, width, 3)).copy()
    video[..., 2] = np.arange(frames)[:, None, None] // 2  # the temporal slice
    pixels, grid = video_patches(video, normalise=False)
    (unit,) = FAMILY.units(model, "video", {"pixel_values_videos": pixels, "video_grid_thw": grid})
    shape = (frames // 2, -1)
    assert (unit.views.start, unit.views.stop) == (0, frames // 2)
    check_positions(unit, pixels, shape)
    slices = unit.to_tokens(patch_channel(pixels, 2).reshape(shape))
    assert np.array_equal(slices.numpy(), unit.layout.position[:, 0])

    patch_map = torch.rand(len(pixels), generator=torch.Generator().manual_seed(0))
    expected = merged_upstream(model.model.visual, pixels, grid, patch_map)
    torch.testing.assert_close(unit.to_tokens(patch_map.reshape(shape)), expected, rtol=0, atol=2e-7)
    assert np.array_equal(unit.layout.position, model.model.get_vision_position_ids(0, grid[0], 1, MERGE).T.numpy())


def test_several_images_and_several_videos_share_one_call(model):
    inputs = qwen_inputs([[(24, 36), (60, 24), (4, 24, 24)], [(36, 36), (2, 36, 24)]])
    for modality, pixels, views in (
        ("image", "pixel_values", [(0, 1), (1, 2), (2, 3)]),
        ("video", "pixel_values_videos", [(0, 2), (2, 3)]),
    ):
        grid = inputs[f"{modality}_grid_thw"]
        units = FAMILY.units(model, modality, inputs)
        assert [(unit.views.start, unit.views.stop) for unit in units] == views
        patch_map = torch.rand(len(inputs[pixels]), generator=torch.Generator().manual_seed(0))
        maps = patch_map.split(grid.prod(dim=1).tolist())
        found = [
            unit.to_tokens(own.reshape(int(slices), -1))
            for unit, own, slices in zip(units, maps, grid[:, 0], strict=True)
        ]
        expected = merged_upstream(model.model.visual, inputs[pixels], grid, patch_map)
        torch.testing.assert_close(torch.cat(found), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("modality", ["image", "video"])
def test_missing_grids_are_named(model, modality):
    with pytest.raises(InputError, match=f"{modality}_grid_thw is missing"):
        FAMILY.units(model, modality, {"pixel_values": torch.zeros(4, 8)})
