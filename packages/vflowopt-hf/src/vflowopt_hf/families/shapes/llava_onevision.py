"""LLaVA-OneVision models with random weights of given shapes, for benchmarks."""

from functools import partial
from typing import Any

import numpy as np
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from vflowopt import TokenLayout
from vflowopt.benchmark import PARTS, BenchShape
from vflowopt_hf.families.anyres import grid_positions
from vflowopt_hf.families.shapes.anyres_sizes import anyres_size
from vflowopt_hf.families.shapes.pictures import picture, prompt
from vflowopt_hf.families.shapes.random_model import random_model
from vflowopt_hf.family import Family

SIDE = 384


def onevision_shapes(family: Family) -> tuple[BenchShape, ...]:
    """What ``vflowopt bench --shape`` offers for LLaVA-OneVision."""
    return (
        BenchShape(
            name="mid",
            summary="decoder of 12 layers x 512, small vision tower",
            parts=PARTS,
            visual_tokens=2000,
            build=partial(build, decoder(512, 12, 8, 4, 2048), tower(192, 4, 4, 768)),
            inputs=partial(onevision_inputs, family),
        ),
        BenchShape(
            name="large",
            summary="decoder of 24 layers x 1024, small vision tower",
            parts=PARTS,
            visual_tokens=2000,
            build=partial(build, decoder(1024, 24, 16, 4, 4096), tower(192, 4, 4, 768)),
            inputs=partial(onevision_inputs, family),
        ),
        BenchShape(
            name="llava-onevision-narrow",
            summary="LLaVA-OneVision-7B as deep as published and very narrow: what the host takes",
            parts=PARTS,
            visual_tokens=500,
            build=partial(build, decoder(64, 28, 4, 2, 64), tower(32, 26, 2, 32, side=112)),
            inputs=partial(onevision_inputs, family),
        ),
        BenchShape(
            name="siglip-so400m",
            summary="vision tower of SigLIP-so400m (all 27 layers x 1152), tiny decoder; planning of 10 views' tokens",
            parts=("vision tower", "attention capture", "entropy", "planning"),
            visual_tokens=1485,
            build=partial(build, decoder(64, 3, 2, 1, 128), tower(1152, 27, 16, 4304)),
            inputs=partial(onevision_inputs, family),
            planning_layout=ten_views(),
        ),
        BenchShape(
            name="llava-onevision-7b",
            summary="LLaVA-OneVision-7B as published: Qwen2-7B, and the 26 layers of SigLIP-so400m that it uses",
            parts=PARTS,
            visual_tokens=4450,
            build=partial(build, qwen2_7b(), tower(1152, 26, 16, 4304)),
            inputs=partial(onevision_inputs, family),
        ),
    )


def decoder(hidden: int, layers: int, heads: int, key_heads: int, mlp: int, vocabulary: int = 512) -> dict[str, Any]:
    """Configuration of a Qwen2 decoder."""
    return {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": key_heads, "intermediate_size": mlp, "vocab_size": vocabulary,
        "max_position_embeddings": 32768, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        "tie_word_embeddings": False, "bos_token_id": None,
    }  # fmt: skip


def qwen2_7b() -> dict[str, Any]:
    """Of Qwen2-7B."""
    return decoder(3584, 28, 28, 4, 18944, vocabulary=152064)


def tower(hidden: int, layers: int, heads: int, mlp: int, side: int = SIDE) -> dict[str, Any]:
    """Configuration of a SigLIP tower with patches of 14 pixels."""
    return {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": mlp,
        "image_size": side, "patch_size": 14, "vision_use_head": False,
    }  # fmt: skip


def build(text: dict[str, Any], vision: dict[str, Any], device: str | None, dtype: str) -> Any:
    """A model whose image grid is the published one: tiles in 1 to 6 rows and columns, interpolated beyond 9."""
    side, small = vision["image_size"], text["vocab_size"] < 1000
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**vision),
        text_config=Qwen2Config(**text),
        image_token_index=1 if small else 151646,
        video_token_index=2 if small else 151647,
        image_grid_pinpoints=[[rows * side, columns * side] for rows in range(1, 7) for columns in range(1, 7)],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
        tie_word_embeddings=False,
    )
    return random_model(LlavaOnevisionForConditionalGeneration, config, device, dtype)


def onevision_inputs(family: Family, model: Any, visual_tokens: int, text_tokens: int) -> dict[str, Any]:
    """One picture of a size that gives about so many visual tokens, and text."""
    side = model.config.vision_config.image_size
    processor = LlavaOnevisionImageProcessorPil(
        size={"height": side, "width": side}, image_grid_pinpoints=model.config.image_grid_pinpoints
    )
    image = picture(anyres_size(family, model, visual_tokens))
    return prompt(family, model, processor(image, return_tensors="pt"), text_tokens)


def ten_views() -> TokenLayout:
    """A base crop and 9 tiles, not interpolated: 7,290 tokens with a patch, and a separator for each of 81 rows."""
    separator = np.full((81, 1, 3), -1, dtype=np.int64)
    rows = np.concatenate([grid_positions(1, 81, 81).reshape(81, 81, 3), separator], axis=1)
    return TokenLayout(np.concatenate([grid_positions(0, 27, 27), rows.reshape(-1, 3)]))
