"""The architecture: a stock LLaVA-OneVision of 4 million parameters."""

from __future__ import annotations

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from .geometry import ASPECT, PATCH, PINPOINTS, VIEW
from .vocabulary import IMAGE, PAD, TURN_END, VIDEO, VOCABULARY


def configuration() -> LlavaOnevisionConfig:
    """SigLIP (112 px, patch 8, 5 layers of 160) and Qwen2 (9 layers of 160, tied embeddings)."""
    vision = SiglipVisionConfig(
        hidden_size=160,
        num_hidden_layers=5,
        num_attention_heads=4,
        intermediate_size=480,
        image_size=VIEW,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = Qwen2Config(
        hidden_size=160,
        num_hidden_layers=9,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=448,
        vocab_size=len(VOCABULARY),
        max_position_embeddings=16384,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=VOCABULARY[TURN_END],
        pad_token_id=VOCABULARY[PAD],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=VOCABULARY[IMAGE],
        video_token_index=VOCABULARY[VIDEO],
        image_grid_pinpoints=[list(grid) for grid in PINPOINTS],
        vision_aspect_ratio=ASPECT,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )


def build(seed: int = 0) -> LlavaOnevisionForConditionalGeneration:
    """An untrained model in float32; the process's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlavaOnevisionForConditionalGeneration(configuration())
