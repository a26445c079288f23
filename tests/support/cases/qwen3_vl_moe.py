"""Qwen3-VL with a mixture of experts, for the conformance kit."""

import torch
from transformers import Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration

from support.cases.qwen2_vl import PROMPTS, SIZES
from support.cases.qwen3_vl import TEXT, VISION, processor, prompt, sharpened
from support.tiny_qwen import IMAGE, VIDEO
from vflowopt_hf.testing.case import Case
from vflowopt_qwen.qwen3_vl import Qwen3VL

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [1]}


def tiny_qwen3_vl_moe(attention: str = "sdpa", *, seed: int = 0) -> Qwen3VLMoeForConditionalGeneration:
    """A random model; one of its layers is dense."""
    torch.manual_seed(seed)
    config = Qwen3VLMoeConfig(
        vision_config=dict(VISION),
        text_config=TEXT | EXPERTS,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        attn_implementation=attention,
    )
    return sharpened(Qwen3VLMoeForConditionalGeneration(config))


CASE = Case(family=Qwen3VL(), model=tiny_qwen3_vl_moe, image_processor=processor, prompt=prompt, **SIZES, **PROMPTS)
