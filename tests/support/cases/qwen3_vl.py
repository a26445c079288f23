"""Qwen3-VL for the conformance kit: three depths of visual features, timestamps before each temporal slice."""

from dataclasses import replace
from functools import partial

import torch
from transformers import (
    Cosmos3OmniConfig,
    Cosmos3OmniForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from support.cases.qwen2_vl import PROMPTS, SIZES
from support.tiny_qwen import EOS, IMAGE, LAYERS, MERGE, PAD, PATCH, SLICE, VIDEO, VOCABULARY, image_processor, ready
from vflowopt_hf.testing.case import Case
from vflowopt_qwen.qwen3_vl import Qwen3VL

VISION = {
    "depth": 4,
    "hidden_size": 32,
    "out_hidden_size": 48,
    "intermediate_size": 48,
    "num_heads": 4,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": SLICE,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1, 2],
}
TEXT = {
    "hidden_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "intermediate_size": 64,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [2, 2, 2],
        "mrope_interleaved": True,
    },
    "bos_token_id": None,
    "eos_token_id": EOS,
    "pad_token_id": PAD,
}


def tiny_qwen3_vl(attention: str = "sdpa", *, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """A random model; its normalised queries are scaled up too."""
    torch.manual_seed(seed)
    config = Qwen3VLConfig(
        vision_config=dict(VISION),
        text_config=dict(TEXT),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        attn_implementation=attention,
    )
    return sharpened(Qwen3VLForConditionalGeneration(config))


def sharpened(model):
    """What scaling projections cannot reach: the norms behind them, and experts, whose weights have three axes."""
    with torch.no_grad():
        for name, parameter in ready(model).named_parameters():
            if name.endswith("q_norm.weight") or ".experts." in name:
                parameter.mul_(3.0)
    return model


def prompt(model, modality, unit, placeholder):
    """Two words before each temporal slice of a video."""
    slices = unit.views.stop - unit.views.start
    own = [placeholder] * (unit.layout.tokens // slices)
    return own if modality == "image" else [7, 8, *own] * slices


processor = partial(image_processor, image_mean=[0.5] * 3, image_std=[0.5] * 3)

CASE = Case(family=Qwen3VL(), model=tiny_qwen3_vl, image_processor=processor, prompt=prompt, **SIZES, **PROMPTS)


def tiny_cosmos3_omni(attention: str = "sdpa") -> Cosmos3OmniForConditionalGeneration:
    """A random model of the type that only its configuration tells from Qwen3-VL."""
    torch.manual_seed(0)
    config = Cosmos3OmniConfig(
        vision_config=dict(VISION),
        text_config=dict(TEXT),
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        attn_implementation=attention,
    )
    return sharpened(Cosmos3OmniForConditionalGeneration(config))


SIBLINGS = (replace(CASE, model=tiny_cosmos3_omni, name="cosmos3_omni"),)
"""Other model types of the family."""
