"""ViP-LLaVA for the conformance kit: features of two layers, the last but one the last of them."""

from dataclasses import replace

import torch
from transformers import LlamaConfig, VipLlavaConfig, VipLlavaForConditionalGeneration

from support.cases import llava
from support.tiny import IMAGE
from vflowopt_hf.families.vipllava import VipLlava


def tiny_vipllava(attention: str = "sdpa") -> VipLlavaForConditionalGeneration:
    """A random model."""
    torch.manual_seed(0)
    config = VipLlavaConfig(
        vision_config=llava.clip_tower(),
        text_config=LlamaConfig(**llava.text_shape()),
        image_token_index=IMAGE,
        vision_feature_layers=[-2, 1],
        attn_implementation=attention,
    )
    return llava.ready(VipLlavaForConditionalGeneration(config))


CASE = replace(llava.CASE, family=VipLlava(), model=tiny_vipllava)
