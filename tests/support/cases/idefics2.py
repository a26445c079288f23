"""Idefics2 for the conformance kit: padded images of any size, and tokens that a resampler makes."""

import torch
from transformers import Idefics2Config, Idefics2ForConditionalGeneration, MistralConfig
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig, Idefics2VisionConfig
from transformers.models.idefics2.image_processing_pil_idefics2 import Idefics2ImageProcessorPil

from support.cases.idefics3 import AROUND, FIRST_WORD, IMAGE, PAD, ready, vision_sizes
from support.cases.llava import text_shape
from vflowopt_hf.families.idefics2 import Idefics2
from vflowopt_hf.testing.case import Case

LATENTS = 12


def tiny_idefics2(attention: str = "sdpa") -> Idefics2ForConditionalGeneration:
    """A random model."""
    torch.manual_seed(0)
    config = Idefics2Config(
        vision_config=Idefics2VisionConfig(**vision_sizes()),
        perceiver_config=Idefics2PerceiverConfig(
            hidden_size=48,
            resampler_n_latents=LATENTS,
            resampler_depth=2,
            resampler_n_heads=4,
            resampler_head_dim=8,
            num_key_value_heads=2,
        ),
        text_config=MistralConfig(**text_shape(), sliding_window=None),
        image_token_id=IMAGE,
        attn_implementation=attention,
    )
    model = Idefics2ForConditionalGeneration(config)
    with torch.no_grad():
        model.model.connector.perceiver_resampler.latents.normal_()  # upstream's are all alike
    return ready(model)


def image_processor() -> Idefics2ImageProcessorPil:
    """Upstream's own, for the tiny tower."""
    return Idefics2ImageProcessorPil(size={"shortest_edge": 20, "longest_edge": 60})


def prompt(model, modality, unit, placeholder):
    """An image between its markers."""
    return [AROUND, *[placeholder] * LATENTS, AROUND]


CASE = Case(
    family=Idefics2(),
    model=tiny_idefics2,
    image_processor=image_processor,
    image_sizes=((48, 48), (30, 60), (70, 40)),
    pad_token=PAD,
    first_word=FIRST_WORD,
    prompt=prompt,
)
