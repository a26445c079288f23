"""GLM-4.1V for the conformance kit, and its successors: 4.5V (mixture of experts), 4.6V, OCR."""

import copy
from dataclasses import replace

import torch
from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    GlmgaConfig,
    GlmOcrConfig,
    GlmOcrForConditionalGeneration,
)
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

from support.cases.qwen2_vl import SIZES, video_inputs
from support.tiny_qwen import FACTOR, LAYERS, MERGE, PAD, PATCH, SLICE, VOCABULARY, ready
from vflowopt_hf.families.glm4v import Glm4V
from vflowopt_hf.testing.case import Case

IMAGE, VIDEO, BEGIN, END, BEGIN_VIDEO, END_VIDEO, TIME, FIRST_WORD = 1, 2, 3, 4, 5, 6, 7, 8

TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "image_start_token_id": BEGIN,
    "image_end_token_id": END,
    "video_start_token_id": BEGIN_VIDEO,
    "video_end_token_id": END_VIDEO,
}
VISION = {
    "depth": 3,
    "hidden_size": 32,
    "out_hidden_size": 48,
    "intermediate_size": 64,
    "num_heads": 4,
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": SLICE,
    "image_size": 48,
}
TEXT = {
    "hidden_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 4096,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [2, 2, 2],
        "partial_rotary_factor": 1.0,
    },
    "pad_token_id": PAD,
}
EXPERTS = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}


def tiny_glm4v(attention: str = "sdpa") -> Glm4vForConditionalGeneration:
    """A random model."""
    return made(Glm4vConfig, Glm4vForConditionalGeneration, attention)


def tiny_glm4v_moe(attention: str = "sdpa") -> Glm4vMoeForConditionalGeneration:
    """A random model; one of its layers is dense."""
    model = made(Glm4vMoeConfig, Glm4vMoeForConditionalGeneration, attention, text=EXPERTS)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.mul_(3.0)
            elif name.endswith("gate.weight"):  # so sharp a router would turn rounding errors into other experts
                parameter.div_(3.0)
    return model


def tiny_glm46v(attention: str = "sdpa") -> Glm46VForConditionalGeneration:
    """A random model of the types that only configurations tell from GLM-4.1V."""
    return made(Glm46VConfig, Glm46VForConditionalGeneration, attention)


def tiny_glmga(attention: str = "sdpa") -> Glm46VForConditionalGeneration:
    """A random model with a configuration of a type of its own."""
    return made(GlmgaConfig, Glm46VForConditionalGeneration, attention)


def tiny_glm_ocr(attention: str = "sdpa") -> GlmOcrForConditionalGeneration:
    """A random model."""
    return made(GlmOcrConfig, GlmOcrForConditionalGeneration, attention, text={"head_dim": 12})


def made(config, model, attention, text=None):
    """A random model of one of the types."""
    torch.manual_seed(0)
    own = config(
        vision_config=dict(VISION),
        text_config=copy.deepcopy(TEXT) | (text or {}),
        attn_implementation=attention,
        **TOKENS,
    )
    return ready(model(own))


def image_processor() -> Glm4vImageProcessorPil:
    """Upstream's own image processor, for the tiny patch size; it counts the two copies of an image as pixels."""
    size = {"shortest_edge": 2 * FACTOR**2, "longest_edge": 2 * 60 * FACTOR**2}
    return Glm4vImageProcessorPil(size=size, patch_size=PATCH, merge_size=MERGE, temporal_patch_size=SLICE)


def prompt(model, modality, unit, placeholder):
    """An image between its markers; of a video every slice, with a time after it."""
    slices = unit.views.stop - unit.views.start
    own = [BEGIN, *[placeholder] * (unit.layout.tokens // slices), END]
    return own if modality == "image" else [BEGIN_VIDEO, *[i for _ in range(slices) for i in (*own, TIME)], END_VIDEO]


def token_types(model, inputs, prompt):
    """0 for text, 1 for images, 2 for what stands between the markers of a video."""
    ids = inputs["input_ids"]
    within = (ids == BEGIN_VIDEO).cumsum(dim=1) > (ids == END_VIDEO).cumsum(dim=1)
    return {"mm_token_type_ids": torch.where(ids == IMAGE, 1 + within.long(), 0)}


CASE = Case(
    family=Glm4V(),
    model=tiny_glm4v,
    image_processor=image_processor,
    pad_token=PAD,
    first_word=FIRST_WORD,
    images_beside_videos=False,
    prompt=prompt,
    extra_inputs=token_types,
    video=video_inputs,
    **SIZES,
)
SIBLINGS = tuple(
    replace(CASE, model=model, name=name)
    for name, model in (
        ("glm4v_moe", tiny_glm4v_moe),
        ("glm46v", tiny_glm46v),
        ("glmga", tiny_glmga),
        ("glm_ocr", tiny_glm_ocr),
    )
)
"""Other model types of the family."""

_BEAMS = "upstream gives the beams of a prompt with several images each image in turn, unpruned, too"
UPSTREAM_FAULTS = {"beam search-eager": _BEAMS, "beam search-sdpa": _BEAMS}
