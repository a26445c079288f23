"""LLaVA-NeXT models with random weights of published shapes, for benchmarks."""

from functools import partial
from typing import Any

from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from vflowopt.benchmark import PARTS, BenchShape
from vflowopt_hf.families.shapes.anyres_sizes import anyres_size
from vflowopt_hf.families.shapes.pictures import picture, prompt
from vflowopt_hf.families.shapes.random_model import random_model
from vflowopt_hf.family import Family

SIDE = 336
GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
LARGEST = 2928  # a base crop and 2 x 2 tiles: 5 x 576 with a patch, and 48 separators
NARROW = {"hidden_size": 64, "intermediate_size": 64}


def next_shapes(family: Family) -> tuple[BenchShape, ...]:
    """What ``vflowopt bench --shape`` offers for LLaVA-NeXT."""
    return (
        BenchShape(
            name="llava-next-narrow",
            summary="LLaVA-NeXT-7B as deep as published and very narrow: what the host takes",
            parts=PARTS,
            visual_tokens=300,
            build=partial(
                build,
                vicuna(**NARROW, num_attention_heads=4, num_key_value_heads=4, vocab_size=512),
                clip(**NARROW, num_attention_heads=2, image_size=112, projection_dim=32),
            ),
            inputs=partial(next_inputs, family),
        ),
        BenchShape(
            name="llava-next-7b",
            summary="LLaVA-NeXT-7B with Vicuna-7B, whose heads all have keys of their own, and CLIP ViT-L/14-336",
            parts=PARTS,
            visual_tokens=LARGEST,
            build=partial(build, vicuna(), clip()),
            inputs=partial(next_inputs, family),
        ),
        BenchShape(
            name="llava-next-mistral-7b",
            summary="LLaVA-NeXT-7B with Mistral-7B and CLIP ViT-L/14-336",
            parts=PARTS,
            visual_tokens=LARGEST,
            build=partial(build, mistral(), clip()),
            inputs=partial(next_inputs, family),
        ),
    )


def vicuna(**changes: Any) -> LlamaConfig:
    """Of Vicuna-7B v1.5, its vocabulary grown as LLaVA-NeXT's."""
    shape: dict[str, Any] = {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
        "intermediate_size": 11008, "vocab_size": 32064, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    return LlamaConfig(**(shape | changes))


def mistral(**changes: Any) -> MistralConfig:
    """Of Mistral-7B-Instruct v0.2: no sliding window."""
    shape: dict[str, Any] = {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 14336, "vocab_size": 32064, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}, "sliding_window": None,
    }  # fmt: skip
    return MistralConfig(**(shape | changes))


def clip(**changes: Any) -> CLIPVisionConfig:
    """Of CLIP ViT-L/14 at 336 pixels."""
    shape: dict[str, Any] = {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "image_size": SIDE, "patch_size": 14, "projection_dim": 768,
    }  # fmt: skip
    return CLIPVisionConfig(**(shape | changes))


def build(text: Any, vision: Any, device: str | None, dtype: str) -> Any:
    """A model with the published grids and layer of the tower."""
    side = vision.image_size
    config = LlavaNextConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=min(32000, text.vocab_size - 1),
        image_grid_pinpoints=[[rows * side, columns * side] for rows, columns in GRIDS],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    return random_model(LlavaNextForConditionalGeneration, config, device, dtype)


def next_inputs(family: Family, model: Any, visual_tokens: int, text_tokens: int) -> dict[str, Any]:
    """One picture of a size that gives about so many visual tokens, and text."""
    side = model.config.vision_config.image_size
    processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=model.config.image_grid_pinpoints,
    )
    image = picture(anyres_size(family, model, visual_tokens))
    return prompt(family, model, processor(image, return_tensors="pt"), text_tokens)
