"""Qwen2-VL with random weights of the published shape, for benchmarks."""

import math
from functools import partial
from typing import Any

from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from vflowopt.benchmark import PARTS, BenchShape
from vflowopt_hf.families.shapes.pictures import nearest_size, picture, prompt
from vflowopt_hf.families.shapes.random_model import random_model
from vflowopt_hf.family import Family

TEXT = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944, "vocab_size": 152064, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}  # fmt: skip
VISION = {"depth": 32, "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}
MID_TEXT = TEXT | {
    "hidden_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16, "num_key_value_heads": 4,
    "intermediate_size": 3584, "vocab_size": 512, "bos_token_id": None, "eos_token_id": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
}  # fmt: skip
MID_VISION = VISION | {"depth": 6, "embed_dim": 256, "num_heads": 4}

NARROW_TEXT = TEXT | {
    "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64, "vocab_size": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
}  # fmt: skip
NARROW_VISION = VISION | {"embed_dim": 32, "num_heads": 2, "mlp_ratio": 1}


def qwen2_vl_shapes(family: Family) -> tuple[BenchShape, ...]:
    """What ``vflowopt bench --shape`` offers for Qwen2-VL."""
    return (
        BenchShape(
            name="qwen2-vl-mid",
            summary="decoder of 16 layers x 1024, small native-resolution tower",
            parts=PARTS,
            visual_tokens=2000,
            build=partial(build, MID_TEXT, MID_VISION),
            inputs=partial(qwen2_vl_inputs, family),
        ),
        BenchShape(
            name="qwen2-vl-7b",
            summary="Qwen2-VL-7B as published: Qwen2-7B, and a native-resolution tower of 32 layers x 1280",
            parts=PARTS,
            visual_tokens=4450,
            build=partial(build, TEXT, VISION),
            inputs=partial(qwen2_vl_inputs, family),
        ),
        BenchShape(
            name="qwen2-vl-narrow",
            summary="Qwen2-VL-7B as deep as published and very narrow: what the host takes",
            parts=PARTS,
            visual_tokens=300,
            build=partial(build, NARROW_TEXT, NARROW_VISION),
            inputs=partial(qwen2_vl_inputs, family),
        ),
    )


def build(text: dict[str, Any], vision: dict[str, Any], device: str | None, dtype: str) -> Any:
    """A model with tokens of 2 x 2 patches."""
    config = Qwen2VLConfig(
        text_config={**text},
        vision_config={**vision, "hidden_size": text["hidden_size"], "spatial_merge_size": 2, "temporal_patch_size": 2},
        image_token_id=min(151655, text["vocab_size"] - 1),
        video_token_id=min(151656, text["vocab_size"] - 2),
        tie_word_embeddings=False,
    )
    return random_model(Qwen2VLForConditionalGeneration, config, device, dtype)


def qwen2_vl_inputs(family: Family, model: Any, visual_tokens: int, text_tokens: int) -> dict[str, Any]:
    """One picture, at most twice as wide as high, of about so many visual tokens, and text."""
    vision = model.config.vision_config
    side = vision.patch_size * vision.spatial_merge_size
    rows = range(math.ceil(math.sqrt(visual_tokens / 2)), math.isqrt(visual_tokens) + 1)
    grids = ((row, round(visual_tokens / row)) for row in rows)
    height, width = (side * count for count in nearest_size(visual_tokens, grids, math.prod))
    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": side**2, "longest_edge": 4 * height * width},
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
    )
    inputs = prompt(family, model, processor(picture((height, width)), return_tensors="pt"), text_tokens)
    return inputs | {"mm_token_type_ids": (inputs["input_ids"] == model.config.image_token_id).long()}
