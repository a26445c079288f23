"""Qwen2-VL for the conformance kit, and what its successors share with it."""

import torch

from support.tiny_qwen import IMAGE, PAD, VIDEO, image_processor, tiny_qwen2_vl, video_patches
from vflowopt_hf.testing.case import Case
from vflowopt_qwen.qwen2_vl import Qwen2VL


def video_inputs(model, videos):
    """Flat patches and grids of several videos."""
    patches, grids = zip(*map(video_patches, videos), strict=True)
    return {"pixel_values_videos": torch.cat(patches), "video_grid_thw": torch.cat(grids)}


def token_types(model, inputs, prompt=None):
    """0 for text, 1 for images, 2 for videos."""
    ids = inputs["input_ids"]
    return {"mm_token_type_ids": 1 * (ids == IMAGE) + 2 * (ids == VIDEO)}


SIZES = {"image_sizes": ((48, 48), (24, 96), (84, 36), (60, 72)), "video_sizes": ((2, 36, 48), (6, 24, 36))}
"""Square, wide, tall; patches of 6 pixels, merged 2 x 2, and 2 frames to a temporal slice."""

PROMPTS = {"pad_token": PAD, "first_word": 5, "video": video_inputs, "extra_inputs": token_types}

CASE = Case(family=Qwen2VL(), model=tiny_qwen2_vl, image_processor=image_processor, **SIZES, **PROMPTS)
