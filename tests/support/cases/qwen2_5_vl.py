"""Qwen2.5-VL for the conformance kit. Windows are 2 x 2 visual tokens; the last block attends within them."""

import copy

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from support.cases.qwen2_vl import PROMPTS, SIZES, token_types, video_inputs
from support.tiny_qwen import (
    FACTOR,
    IMAGE,
    MERGE,
    PATCH,
    SLICE,
    TEXT_CONFIG,
    VIDEO,
    image_processor,
    ready,
)
from vflowopt_hf.testing.case import Case
from vflowopt_qwen.qwen2_5_vl import Qwen25VL

SECONDS_PER_SLICE = 0.5


def tiny_qwen2_5_vl(attention: str = "sdpa", *, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    """A random model."""
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 4,
            "hidden_size": 32,
            "out_hidden_size": 48,
            "intermediate_size": 48,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": SLICE,
            "tokens_per_second": 4,
            "window_size": 2 * FACTOR,
            "fullatt_block_indexes": [0, 2],
        },
        text_config=copy.deepcopy(TEXT_CONFIG),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        attn_implementation=attention,
    )
    return ready(Qwen2_5_VLForConditionalGeneration(config))


def timed_video_inputs(model, videos):
    """With the time that a temporal slice spans, which positions are scaled by."""
    inputs = video_inputs(model, videos)
    return inputs | {"second_per_grid_ts": torch.full((len(videos),), SECONDS_PER_SLICE)}


CASE = Case(
    family=Qwen25VL(),
    model=tiny_qwen2_5_vl,
    image_processor=image_processor,
    observed_last=False,
    **SIZES,
    **PROMPTS | {"video": timed_video_inputs, "extra_inputs": token_types},
)
