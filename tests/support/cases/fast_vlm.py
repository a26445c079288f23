"""FastVLM for the conformance kit: a tower of another library that attends to places of an image."""

import torch
from transformers import FastVlmConfig, FastVlmForConditionalGeneration, Qwen2Config

from support.cases.llava import text_shape
from support.cases.paligemma import image_processor, tower
from support.timm_like import Convolutional, Wrapper
from support.tiny import IMAGE, PAD, PATCH
from support.tiny_qwen import ready
from vflowopt_hf.families.fast_vlm import FastVLM
from vflowopt_hf.testing.case import Case


def tiny_fast_vlm(attention: str = "sdpa") -> FastVlmForConditionalGeneration:
    """A random model whose tower stands for one of timm."""
    torch.manual_seed(0)
    config = FastVlmConfig(
        vision_config=tower(),
        text_config=Qwen2Config(**text_shape()),
        image_token_index=IMAGE,
        attn_implementation=attention,
    )
    model = FastVlmForConditionalGeneration(config)
    model.model.vision_tower = Wrapper(Convolutional(PATCH))
    return ready(model)


CASE = Case(
    family=FastVLM(),
    model=tiny_fast_vlm,
    image_processor=image_processor,
    image_sizes=((42, 42), (24, 96), (100, 40)),
    pad_token=PAD,
    first_word=10,
)
