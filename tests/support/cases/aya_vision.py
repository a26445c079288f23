"""Aya Vision for the conformance kit: tiles that the prompt names, windows shorter than an image."""

import torch
from transformers import AyaVisionConfig, AyaVisionForConditionalGeneration, Cohere2Config
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from support.cases.llava import text_shape
from support.cases.paligemma import tower
from support.tiny import LAYERS, PAD, PATCH
from support.tiny_qwen import ready
from vflowopt_hf.families.aya_vision import AyaVision
from vflowopt_hf.testing.case import Case

IMAGE, BEGIN, END, EOS, TILE, GLOBAL, FIRST_TILE, FIRST_WORD = 1, 2, 4, 3, 5, 6, 7, 16
SIDE, SHUFFLE, WINDOW = 48, 2, 20


def cohere2() -> Cohere2Config:
    """A tiny decoder; every third layer sees all."""
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * (LAYERS // 3)
    return Cohere2Config(**text_shape(), sliding_window=WINDOW, layer_types=kinds, logit_scale=1.0)


def tiny_aya_vision(attention: str = "sdpa") -> AyaVisionForConditionalGeneration:
    """A random model."""
    torch.manual_seed(0)
    vision = tower()
    vision.image_size = SIDE
    config = AyaVisionConfig(
        vision_config=vision,
        text_config=cohere2(),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        downsample_factor=SHUFFLE,
        image_token_id=IMAGE,
        attn_implementation=attention,
    )
    return ready(AyaVisionForConditionalGeneration(config))


def image_processor() -> GotOcr2ImageProcessorPil:
    """Upstream's own image processor, for the tiny tower."""
    return GotOcr2ImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        crop_to_patches=True,
        max_patches=4,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def prompt(model, modality, unit, placeholder):
    """Every tile after its name, which is of two tokens here; the whole image last."""
    tokens = (SIDE // PATCH // SHUFFLE) ** 2
    tiles = unit.layout.tokens // tokens
    own = [i for tile in range(tiles - 1) for i in (TILE, FIRST_TILE + tile, *[placeholder] * tokens)]
    return [BEGIN, *own, TILE, GLOBAL, *[placeholder] * tokens, END]


CASE = Case(
    family=AyaVision(),
    model=tiny_aya_vision,
    image_processor=image_processor,
    image_sizes=((48, 48), (40, 100), (150, 50), (100, 100)),
    pad_token=PAD,
    first_word=FIRST_WORD,
    prompt=prompt,
)
