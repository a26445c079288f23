"""MiniCPM-V 4.6 for the conformance kit: the tower merges after its first layer; Qwen3.5's decoder."""

import torch
from transformers import MiniCPMV4_6Config, MiniCPMV4_6ForConditionalGeneration
from transformers.models.minicpmv4_6.image_processing_pil_minicpmv4_6 import MiniCPMV4_6ImageProcessorPil

from support.cases.qwen3_5 import TEXT, remembering
from support.cases.qwen3_vl import sharpened
from support.tiny_qwen import IMAGE, PAD, VIDEO
from vflowopt_hf.families.minicpm_v4_6 import MiniCPMV46
from vflowopt_hf.testing.case import Case
from vflowopt_hf.testing.recurrent import gated_delta_net

PATCH, FIRST_WORD = 4, 7
OPEN, CLOSE = 5, 6


def tiny_minicpm_v4_6(attention: str = "sdpa", *, seed: int = 0) -> MiniCPMV4_6ForConditionalGeneration:
    """A random model."""
    torch.manual_seed(seed)
    text = TEXT | {"model_type": "qwen3_5_text", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    config = MiniCPMV4_6Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": PATCH,
        },
        text_config=text,
        insert_layer_id=0,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        attn_implementation=attention,
    )
    model = remembering(sharpened(MiniCPMV4_6ForConditionalGeneration(config)))
    with torch.no_grad():  # drawn much larger than the rest
        for name, parameter in model.named_parameters():
            if "vit_merger" in name and parameter.ndim == 2:
                parameter.mul_(0.3 / parameter.std())
    return model


def processor() -> MiniCPMV4_6ImageProcessorPil:
    """Upstream's own, without slices."""
    return MiniCPMV4_6ImageProcessorPil(patch_size=PATCH, scale_resolution=64, slice_mode=False)


def prompt(model, modality, unit, placeholder):
    """An image between its markers."""
    return [OPEN, *[placeholder] * unit.layout.tokens, CLOSE]


CASE = Case(
    family=MiniCPMV46(),
    model=tiny_minicpm_v4_6,
    image_processor=processor,
    image_sizes=((64, 64), (32, 96), (90, 40)),
    pad_token=PAD,
    first_word=FIRST_WORD,
    prompt=prompt,
    recurrent={"linear_attn": gated_delta_net},
)
