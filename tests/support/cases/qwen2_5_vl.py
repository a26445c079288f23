"""Qwen2.5-VL for the conformance kit. Windows are 2 x 2 visual tokens; the last block attends within them."""

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from support.cases.qwen2_vl import PROMPTS, SIZES, token_types, video_inputs
from support.tiny_qwen import (
    EOS,
    FACTOR,
    IMAGE,
    LAYERS,
    MERGE,
    PAD,
    PATCH,
    SLICE,
    VIDEO,
    VOCABULARY,
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
        text_config={
            "hidden_size": 48,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
            "bos_token_id": None,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
        },
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
