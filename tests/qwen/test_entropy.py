"""Patch entropy of the 8-bit pixels behind flat patches."""

import numpy as np
import pytest
import torch

from support.tiny import random_image
from support.tiny_qwen import MEAN, MERGE, PATCH, STD, image_processor, random_video, tiny_qwen2_vl, video_patches
from vflowopt import Strategy, prune
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_qwen.qwen2_vl import Qwen2VL

FAMILY = Qwen2VL()


def entropy_oracle(frames):
    """Plain loops over 8-bit frames [frames, height, width, 3] of one slice, patches in the tower's order."""
    gray = np.rint(frames.astype(np.float64).mean(-1)).astype(int)
    _, height, width = gray.shape
    found = []
    for top in range(0, height, PATCH * MERGE):
        for left in range(0, width, PATCH * MERGE):
            for y in range(top, top + PATCH * MERGE, PATCH):
                for x in range(left, left + PATCH * MERGE, PATCH):
                    _, counts = np.unique(gray[:, y : y + PATCH, x : x + PATCH], return_counts=True)
                    share = counts / counts.sum()
                    found.append(-(share * np.log(share)).sum())
    return np.array(found)


@pytest.fixture(scope="module")
def model():
    return tiny_qwen2_vl()


@pytest.mark.parametrize("size", [(60, 97), (36, 24)])
def test_an_image_as_the_processor_made_it(model, size):
    """Resized as the real image processor does, then back to 8 bits."""
    image = random_image(*size, seed=1)
    raw = image_processor(do_normalize=False, do_rescale=False)(image, return_tensors="pt")
    made = image_processor()(image, return_tensors="pt")
    _, rows, columns = made["image_grid_thw"][0].tolist()
    blocks = raw["pixel_values"].reshape(rows // 2, columns // 2, 2, 2, 3, 2, PATCH, PATCH)
    seen = blocks[..., 0, :, :].permute(0, 2, 5, 1, 3, 6, 4).reshape(1, rows * PATCH, columns * PATCH, 3)
    (unit,) = FAMILY.units(model, "image", made)
    found = unit.entropy(PixelStatistics.of(image_processor()))
    assert found.shape == (1, rows * columns)
    expected = entropy_oracle(np.rint(seen.numpy()))
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-6, atol=1e-6)
    assert np.ptp(expected) > 0.5


def test_a_video_counts_both_frames_of_a_slice(model):
    video = random_video(4, 24, 36)
    video[2:, :12] = 77
    pixels, grid = video_patches(video)
    (unit,) = FAMILY.units(model, "video", {"pixel_values_videos": pixels, "video_grid_thw": grid})
    found = unit.entropy(FAMILY.pixel_statistics).numpy()
    expected = np.stack([entropy_oracle(video[:2]), entropy_oracle(video[2:])])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert (found[1, :12] == 0).all()
    assert not np.allclose(expected[0], entropy_oracle(video[:1]))  # the second frame matters


def test_statistics_are_those_of_the_family():
    assert PixelStatistics.of(image_processor()) == FAMILY.pixel_statistics == PixelStatistics(MEAN, STD)


def test_entropy_decides_where_it_weighs_everything(model):
    """Through ``prune``: what is kept are the tokens of the highest mean softmax of entropy."""
    image = random_image(60, 96, seed=4)
    made = image_processor()(image, return_tensors="pt")
    tokens = len(made["pixel_values"]) // 4
    ids = torch.tensor([[9, 8, *[1] * tokens, 7, 6]])
    strategy = Strategy.vflowopt(num_layers=6, retention=(0.5, 1.0, 1.0), entropy_weight=1e6)
    with prune(model, strategy, processor=image_processor()) as pruning, torch.no_grad():
        model(input_ids=ids, mm_token_type_ids=1 * (ids == 1), **made)
        kept = pruning.plan[0].kept[0]
    entropy = entropy_oracle(np.asarray(image)[None])
    importance = np.exp(entropy).reshape(-1, 4).mean(1)
    ranked = np.argsort(-importance, kind="stable")
    count = len(kept)
    assert importance[ranked[count - 1]] > importance[ranked[count]] * (1 + 1e-3)  # no tie at the cut
    assert set(kept) == set(ranked[:count])
