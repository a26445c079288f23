"""PaliGemma 1 and 2 for the conformance kit: the prompt attends in both directions."""

from dataclasses import replace

import torch
from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    SiglipVisionConfig,
)
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from support.cases.llava import text_shape
from support.tiny import CROP, IMAGE, LAYERS, PAD, PATCH
from support.tiny_qwen import ready
from vflowopt_hf.families.paligemma import PaliGemma
from vflowopt_hf.testing.case import Case

WINDOW = 20


def tower() -> SiglipVisionConfig:
    """A tiny SigLIP tower."""
    return SiglipVisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=CROP,
        patch_size=PATCH,
        projection_dim=48,
        vision_use_head=False,
    )


def tiny_paligemma(attention: str = "sdpa") -> PaliGemmaForConditionalGeneration:
    """A random model."""
    return made(GemmaConfig(**text_shape(), head_dim=12), attention)


def tiny_paligemma2(attention: str = "sdpa") -> PaliGemmaForConditionalGeneration:
    """A random model with windows shorter than an image, in every other layer; its decoder knows no sdpa."""
    kinds = ["sliding_attention", "full_attention"] * (LAYERS // 2)
    text = Gemma2Config(**text_shape(), head_dim=12, sliding_window=WINDOW, layer_types=kinds)
    return made(text, {"vision_config": attention, "text_config": "eager"})


def made(text, attention):
    """A random model with one of the decoders."""
    torch.manual_seed(0)
    config = PaliGemmaConfig(
        vision_config=tower(),
        text_config=text,
        projection_dim=48,
        hidden_size=48,
        image_token_index=IMAGE,
        image_token_id=IMAGE,
        attn_implementation=attention,
    )
    return ready(PaliGemmaForConditionalGeneration(config))


def image_processor() -> SiglipImageProcessorPil:
    """Upstream's own image processor, for the tiny crop size."""
    return SiglipImageProcessorPil(size={"height": CROP, "width": CROP})


def token_types(model, inputs, prompt):
    """0 for the prompt, which attends in both directions, 1 for what follows it."""
    types = torch.ones_like(inputs["input_ids"])
    types[:, :prompt] = 0
    return {"token_type_ids": types}


CASE = Case(
    family=PaliGemma(),
    model=tiny_paligemma,
    image_processor=image_processor,
    image_sizes=((42, 42), (30, 90), (100, 60)),
    pad_token=PAD,
    first_word=5,
    extra_inputs=token_types,
)
SIBLINGS = (replace(CASE, model=tiny_paligemma2, name="paligemma2"),)
"""Other decoders of the family."""

_DRAFTS = "upstream lets the prompt see the drafts that come with it, unpruned, too"
UPSTREAM_FAULTS = {"drafts-eager": _DRAFTS, "drafts-sdpa": _DRAFTS}
