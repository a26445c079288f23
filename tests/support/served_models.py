"""Random checkpoints of families that have no reference model, with the words of one that has."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.configuration_internvl import InternVLVisionConfig

from support.tiny_qwen import ready
from vflowopt_hf.families.internvl import InternVL
from vflowopt_qwen.qwen2_5_vl import Qwen25VL
from vflowopt_qwen.qwen3_vl import Qwen3VL
from vflowopt_reference import path

WORDS = path("reference-qwen2vl")
TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "vocab_size": 50,
    "max_position_embeddings": 16384,
    "bos_token_id": None,
    "eos_token_id": 3,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
VISION = {
    "depth": 4,
    "hidden_size": 32,
    "out_hidden_size": 64,
    "intermediate_size": 48,
    "num_heads": 2,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
TOKENS = {"image_token_id": 4, "video_token_id": 5, "vision_start_token_id": 2, "vision_end_token_id": 3}


def random_qwen2_5_vl(target: Path) -> Path:
    """Windows of 4 x 4 visual tokens; the last block attends within them."""
    text = TEXT | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}}
    text["hidden_size"] = 128  # this family's heads are what that leaves for each
    vision = VISION | {"out_hidden_size": 128, "window_size": 64, "fullatt_block_indexes": [0, 2]}
    config = Qwen2_5_VLConfig(vision_config=vision, text_config=text, tie_word_embeddings=False, **TOKENS)
    return _saved(Qwen2_5_VLForConditionalGeneration, config, target, "Qwen2_5_VLProcessor", Qwen25VL())


def random_qwen3_vl(target: Path) -> Path:
    """Features of three vision layers enter the decoder at three depths."""
    rotary = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    vision = VISION | {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1, 2]}
    config = Qwen3VLConfig(
        vision_config=vision, text_config=TEXT | {"rope_parameters": rotary}, tie_word_embeddings=False, **TOKENS
    )
    return _saved(Qwen3VLForConditionalGeneration, config, target, "Qwen3VLProcessor", Qwen3VL())


def random_internvl(target: Path) -> Path:
    """Crops of 16 tokens and a thumbnail, between markers; a class token."""
    from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor  # needs torchvision

    side = {"height": 48, "width": 48}
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    words = PreTrainedTokenizerFast.from_pretrained(WORDS, extra_special_tokens=marks)
    vision = InternVLVisionConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, image_size=48, patch_size=6
    )
    text = Qwen2Config(**TEXT | {"hidden_size": 128, "vocab_size": len(words), "max_position_embeddings": 4096})
    config = InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=words.context_image_token_id, image_seq_length=16
    )
    torch.manual_seed(0)
    model = ready(InternVLForConditionalGeneration(config))
    torch.nn.init.normal_(model.model.vision_tower.embeddings.position_embeddings, std=0.3)  # zeros at first
    model.save_pretrained(target)
    mean, std = InternVL.pixel_statistics.mean, InternVL.pixel_statistics.std
    images = GotOcr2ImageProcessorPil(size=side, crop_to_patches=True, max_patches=4, image_mean=mean, image_std=std)
    videos = InternVLVideoProcessor(size=side)
    InternVLProcessor(images, words, videos, image_seq_length=16).save_pretrained(target)
    return target


def _saved(model_class: Any, config: Any, target: Path, processor: str, family: Any) -> Path:
    torch.manual_seed(0)
    model = ready(model_class(config))
    model.save_pretrained(target)
    for file in WORDS.iterdir():
        if file.suffix != ".safetensors" and file.name != "config.json":
            shutil.copy(file, target)
    (target / "processor_config.json").write_text(json.dumps({"processor_class": processor}), encoding="utf-8")
    pixels = json.loads((target / "preprocessor_config.json").read_text(encoding="utf-8"))
    pixels |= {"image_mean": family.pixel_statistics.mean, "image_std": family.pixel_statistics.std}
    (target / "preprocessor_config.json").write_text(json.dumps(pixels), encoding="utf-8")
    return target
