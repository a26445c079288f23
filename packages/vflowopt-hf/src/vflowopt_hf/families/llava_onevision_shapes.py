"""Random-weight LLaVA-OneVision models of given shapes, with a real anyres image, for benchmarks."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, Qwen2Config, SiglipVisionConfig
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from vflowopt import TokenLayout
from vflowopt.benchmark import PARTS, BenchShape
from vflowopt_hf.families.anyres import grid_positions
from vflowopt_hf.families.llava_onevision import LlavaOnevision

CROP, PATCH, SIDE = 384, 14, 27
IMAGE, VOCABULARY = 1, 512
GRIDS = [[rows * CROP, columns * CROP] for rows in range(1, 7) for columns in range(1, 7)]


def onevision_shapes() -> tuple[BenchShape, ...]:
    """What ``vflowopt bench --shape`` offers for LLaVA-OneVision."""
    return (
        BenchShape(
            name="mid",
            summary="decoder of 12 layers x 512, small vision tower, a 384 x 768 image: 2,214 visual tokens",
            parts=PARTS,
            build=_mid,
        ),
        BenchShape(
            name="siglip-so400m",
            summary="vision tower of SigLIP-so400m (all 27 layers x 1152) on 2 views; planning of 10 views' tokens",
            parts=("vision tower", "importance", "planning"),
            build=_siglip_so400m,
            planning_layout=ten_views(),
        ),
    )


def ten_views() -> TokenLayout:
    """A base crop and 9 tiles, not interpolated: 7,290 tokens with a patch, and a separator for each of 81 rows."""
    separator = np.full((81, 1, 3), -1, dtype=np.int64)
    rows = np.concatenate([grid_positions(1, 81, 81).reshape(81, 81, 3), separator], axis=1)
    return TokenLayout(np.concatenate([grid_positions(0, SIDE, SIDE), rows.reshape(-1, 3)]))


def _mid(text_tokens: int) -> tuple[Any, dict[str, torch.Tensor]]:
    vision = SiglipVisionConfig(
        hidden_size=192, num_hidden_layers=4, num_attention_heads=4, intermediate_size=768, image_size=CROP,
        patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    model = _build(vision, hidden=512, layers=12, heads=8, key_heads=4, mlp=2048)
    return model, _inputs(model, _image(CROP, 2 * CROP), text_tokens)


def _siglip_so400m(text_tokens: int) -> tuple[Any, dict[str, torch.Tensor]]:
    vision = SiglipVisionConfig(
        hidden_size=1152, num_hidden_layers=27, num_attention_heads=16, intermediate_size=4304, image_size=CROP,
        patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    model = _build(vision, hidden=64, layers=3, heads=2, key_heads=1, mlp=128)
    return model, _inputs(model, _image(CROP, CROP), text_tokens)


def _build(vision: SiglipVisionConfig, *, hidden: int, layers: int, heads: int, key_heads: int, mlp: int) -> Any:
    text = Qwen2Config(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=key_heads,
        intermediate_size=mlp, vocab_size=VOCABULARY, max_position_embeddings=32768, bos_token_id=None,
    )  # fmt: skip
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, video_token_index=2,
        image_grid_pinpoints=GRIDS, vision_feature_layer=-1, vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlavaOnevisionForConditionalGeneration(config).eval()


def _image(height: int, width: int) -> Image.Image:
    """Smooth colours, edges and noise: attention and entropy differ from patch to patch."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width]
    waves = 127 + 60 * np.sin(x / 37)[..., None] * np.array([1, 0.5, -1]) + 50 * np.cos(y / 23)[..., None]
    waves[(x // 96 + y // 64) % 3 == 0] += rng.normal(0, 40, 3)
    return Image.fromarray(np.clip(waves + rng.normal(0, 8, waves.shape), 0, 255).astype(np.uint8))


def _inputs(model: Any, image: Image.Image, text_tokens: int) -> dict[str, torch.Tensor]:
    processor = LlavaOnevisionImageProcessorPil(size={"height": CROP, "width": CROP}, image_grid_pinpoints=GRIDS)
    pixels = processor(image, return_tensors="pt")
    (unit,) = LlavaOnevision().units(model, "image", pixels)
    text = torch.from_numpy(np.random.default_rng(0).integers(3, VOCABULARY, text_tokens))
    before = min(8, text_tokens)
    ids = torch.cat([text[:before], torch.full((unit.layout.tokens,), IMAGE), text[before:]])[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}
