"""Perception LM and FastVLM with the towers that they have, where timm is installed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    LlamaConfig,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    Qwen2Config,
    TimmWrapperConfig,
)

from support.cases import fast_vlm, perception_lm
from support.cases.llava import text_shape
from support.tiny import IMAGE
from support.tiny_qwen import ready
from vflowopt_hf.testing import conformance

pytest.importorskip("timm")

CHECKS = ("counts", "visual tokens", "patches", "map alignment", "observed layer", "attention weights", "ragged batch")


def tiny_perception_lm(attention, *, class_token=True):
    torch.manual_seed(0)
    sizes = {"embed_dim": 32, "depth": 3, "num_heads": 4, "img_size": (36, 36), "patch_size": perception_lm.PATCH}
    without = {"class_token": False, "global_pool": "", "use_post_transformer_norm": False}
    name = "vit_pe_lang_large_patch14_448" if class_token else "vit_pe_core_gigantic_patch14_448"
    args = sizes if class_token else sizes | without
    config = PerceptionLMConfig(
        vision_config=TimmWrapperConfig(architecture=name, do_pooling=False, model_args=args),
        text_config=LlamaConfig(**text_shape()),
        vision_use_cls_token=class_token,
        projector_pooling_ratio=perception_lm.POOL,
        image_token_id=IMAGE,
        video_token_id=2,
        attn_implementation={"": attention, "text_config": attention},
    )
    return ready(PerceptionLMForConditionalGeneration(config))


def without_class_token(attention):
    return tiny_perception_lm(attention, class_token=False)


def tiny_fast_vlm(attention):
    torch.manual_seed(0)
    sizes = {"inference_mode": True, "embed_dims": (16, 32, 64, 64, 64), "layers": (1, 1, 1, 1, 1)}
    config = FastVlmConfig(
        vision_config=TimmWrapperConfig(architecture="fastvit_mci3", hidden_size=128, model_args=sizes),
        text_config=Qwen2Config(**text_shape()),
        image_token_index=IMAGE,
        attn_implementation={"": attention, "text_config": attention},
    )
    return ready(FastVlmForConditionalGeneration(config))


class Squares:
    """Images of 4 x 4 visual tokens."""

    image_mean = image_std = (0.5, 0.5, 0.5)

    def __call__(self, images, return_tensors="pt"):
        flat = [np.asarray(image.convert("RGB").resize((256, 256)), np.float32) for own in images for image in own]
        return {"pixel_values": (torch.from_numpy(np.stack(flat)) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()}


@conformance(
    replace(perception_lm.CASE, model=tiny_perception_lm, name="perception-lm"),
    replace(perception_lm.CASE, model=without_class_token, name="perception-lm-without-class-token"),
    replace(fast_vlm.CASE, model=tiny_fast_vlm, image_processor=Squares, name="fast-vlm"),
    attention=("sdpa",),
    only=CHECKS,
)
def test_with_the_real_tower(check):
    check()
