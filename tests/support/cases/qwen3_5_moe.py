"""Qwen3.5 with a mixture of experts, for the conformance kit."""

import torch
from transformers import Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration

from support.cases.qwen2_vl import PROMPTS, SIZES
from support.cases.qwen3_5 import TEXT, VISION, remembering
from support.cases.qwen3_vl import processor, prompt, sharpened
from support.tiny_qwen import IMAGE, VIDEO
from vflowopt_hf.testing.case import Case
from vflowopt_hf.testing.recurrent import gated_delta_net
from vflowopt_qwen.qwen3_5 import Qwen35

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}


def tiny_qwen3_5_moe(attention: str = "sdpa", *, seed: int = 0) -> Qwen3_5MoeForConditionalGeneration:
    """A random model."""
    torch.manual_seed(seed)
    text = {name: value for name, value in TEXT.items() if name != "intermediate_size"}
    config = Qwen3_5MoeConfig(
        vision_config=dict(VISION),
        text_config=text | EXPERTS | {"shared_expert_intermediate_size": 24},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        attn_implementation=attention,
    )
    return remembering(sharpened(Qwen3_5MoeForConditionalGeneration(config)))


CASE = Case(
    family=Qwen35(),
    model=tiny_qwen3_5_moe,
    image_processor=processor,
    prompt=prompt,
    recurrent={"linear_attn": gated_delta_net},
    **SIZES,
    **PROMPTS,
)
