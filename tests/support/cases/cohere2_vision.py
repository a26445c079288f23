"""Cohere 2 Vision for the conformance kit: a separator after each tile."""

from dataclasses import replace

import torch
from transformers import Cohere2VisionConfig, Cohere2VisionForConditionalGeneration

from support.cases import aya_vision
from support.cases.aya_vision import BEGIN, END, IMAGE, SHUFFLE, SIDE, cohere2
from support.cases.paligemma import tower
from support.tiny import PATCH
from support.tiny_qwen import ready
from vflowopt_hf.families.cohere2_vision import Cohere2Vision

BREAK = 5


def tiny_cohere2_vision(attention: str = "sdpa") -> Cohere2VisionForConditionalGeneration:
    """A random model."""
    torch.manual_seed(0)
    vision = tower()
    vision.image_size = SIDE
    config = Cohere2VisionConfig(
        vision_config=vision,
        text_config=cohere2(),
        downsample_factor=SHUFFLE,
        image_token_id=IMAGE,
        alignment_intermediate_size=64,
        attn_implementation=attention,
    )
    return ready(Cohere2VisionForConditionalGeneration(config))


def prompt(model, modality, unit, placeholder):
    """A separator after each tile, markers around an image."""
    tokens = (SIDE // PATCH // SHUFFLE) ** 2
    return [BEGIN, *[*[placeholder] * tokens, BREAK] * (unit.layout.tokens // tokens), END]


CASE = replace(aya_vision.CASE, family=Cohere2Vision(), model=tiny_cohere2_vision, prompt=prompt)
"""The image processor is Aya Vision's, which tiles alike: upstream's own needs torchvision."""
