"""Qianfan-OCR for the conformance kit."""

from dataclasses import replace

import torch
from transformers import QianfanOCRConfig, QianfanOCRForConditionalGeneration, Qwen3Config

from support.cases import internvl
from support.cases.internvl import IMAGE, PATCH, SIDE
from support.cases.llava import text_shape
from support.tiny_qwen import ready
from vflowopt_hf.families.internvl import QianfanOCR


def tiny_qianfan_ocr(attention: str = "sdpa") -> QianfanOCRForConditionalGeneration:
    """A random model."""
    torch.manual_seed(0)
    config = QianfanOCRConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        text_config=Qwen3Config(**text_shape(), head_dim=12),
        image_token_id=IMAGE,
        attn_implementation=attention,
    )
    model = ready(QianfanOCRForConditionalGeneration(config))
    torch.nn.init.normal_(model.model.vision_tower.embeddings.position_embeddings, std=0.3)  # zeros at first
    return model


CASE = replace(internvl.CASE, family=QianfanOCR(), model=tiny_qianfan_ocr)
