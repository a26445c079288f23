"""LightOnOCR for the conformance kit."""

from dataclasses import replace

import torch
from transformers import LightOnOcrConfig, LightOnOcrForConditionalGeneration, Qwen3Config

from support.cases import mistral3
from support.cases.llava import text_shape
from support.tiny_qwen import ready
from vflowopt_hf.families.mistral3 import LightOnOCR


def tiny_lighton_ocr(attention: str = "sdpa") -> LightOnOcrForConditionalGeneration:
    """A random model."""
    torch.manual_seed(0)
    config = LightOnOcrConfig(
        vision_config=mistral3.tower(),
        text_config=Qwen3Config(**text_shape(), head_dim=12),
        image_token_id=mistral3.IMAGE,
        spatial_merge_size=mistral3.MERGE,
        tie_word_embeddings=False,
        attn_implementation=attention,
    )
    return ready(LightOnOcrForConditionalGeneration(config))


CASE = replace(mistral3.CASE, family=LightOnOCR(), model=tiny_lighton_ocr)
