"""Qwen3.5 for the conformance kit: two of five decoder layers attend, the others are gated delta nets."""

from dataclasses import replace

import torch
from transformers import (
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
)

from support.cases.qwen2_vl import PROMPTS, SIZES
from support.cases.qwen3_vl import TEXT as QWEN3_TEXT
from support.cases.qwen3_vl import VISION as QWEN3_VISION
from support.cases.qwen3_vl import processor, prompt, sharpened
from support.tiny_qwen import IMAGE, VIDEO
from vflowopt_hf.testing.case import Case
from vflowopt_hf.testing.recurrent import gated_delta_net
from vflowopt_hf.upstream import installed
from vflowopt_qwen.qwen3_5 import Qwen35

VISION = {name: value for name, value in QWEN3_VISION.items() if name != "deepstack_visual_indexes"} | {"depth": 3}
LINEAR, FULL = "linear_attention", "full_attention"
TEXT = QWEN3_TEXT | {
    "num_hidden_layers": 5,
    "layer_types": [LINEAR, FULL, LINEAR, LINEAR, FULL],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "rope_parameters": QWEN3_TEXT["rope_parameters"] | {"partial_rotary_factor": 1.0},
}

EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}


def tiny_qwen3_5(attention: str = "sdpa", *, seed: int = 0, **text) -> Qwen3_5ForConditionalGeneration:
    """A random model, whose decoder may be another."""
    torch.manual_seed(seed)
    config = Qwen3_5Config(
        vision_config=dict(VISION),
        text_config=TEXT | text,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        attn_implementation=attention,
    )
    return remembering(sharpened(Qwen3_5ForConditionalGeneration(config)))


def tiny_qwen3_5_moe(attention: str = "sdpa", *, seed: int = 0) -> Qwen3_5MoeForConditionalGeneration:
    """A random model with experts in every layer."""
    torch.manual_seed(seed)
    text = {name: value for name, value in TEXT.items() if name != "intermediate_size"}
    config = Qwen3_5MoeConfig(
        vision_config=dict(VISION),
        text_config=text | EXPERTS,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        attn_implementation=attention,
    )
    return remembering(sharpened(Qwen3_5MoeForConditionalGeneration(config)))


def remembering(model):
    """States that forget slowly and fast, as those of trained models do, and convolutions that matter."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.copy_(torch.linspace(-3.0, 0.5, parameter.numel()))
            if name.endswith("conv1d.weight"):
                parameter.mul_(2.0)
    return model


CASE = Case(
    family=Qwen35(),
    model=tiny_qwen3_5,
    image_processor=processor,
    prompt=prompt,
    recurrent={"linear_attn": gated_delta_net},
    **SIZES,
    **PROMPTS,
)

_BEAMS = "this release gives the beams of a prompt each row of pixels in turn, unpruned, too"
UPSTREAM_FAULTS = dict.fromkeys(("beam search-eager", "beam search-sdpa"), _BEAMS) if installed() < (5, 20) else {}

SIBLINGS = (replace(CASE, model=tiny_qwen3_5_moe, name="qwen3_5_moe"),)
