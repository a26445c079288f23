"""The adapter proved right on a tiny random DeepSeek-VL model, by vflowopt's conformance kit."""

import torch
from transformers import DeepseekVLConfig, DeepseekVLForConditionalGeneration
from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil

from vflowopt_deepseek_vl.family import DeepseekVL
from vflowopt_hf.testing import Case, conformance

PAD, IMAGE, FIRST_WORD, VOCABULARY = 0, 1, 5, 64
SIDE, PATCH = 42, 6


def tiny_deepseek_vl(attention):
    """A random model; weights are scaled up so that attention is far from uniform."""
    torch.manual_seed(0)
    config = DeepseekVLConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "image_size": SIDE,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 48,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "vocab_size": VOCABULARY,
            "pad_token_id": PAD,
        },
        image_token_id=IMAGE,
        attn_implementation=attention,
    )
    model = DeepseekVLForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(12.0)
            elif "embed" not in name and parameter.ndim == 2:
                parameter.mul_(3.0)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model


def image_processor():
    """Upstream's own, for the tiny tower."""
    return DeepseekVLImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, min_size=6, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )


CASE = Case(
    family=DeepseekVL(),
    model=tiny_deepseek_vl,
    image_processor=image_processor,
    image_sizes=((42, 42), (24, 96), (100, 40)),  # square, wide, tall
    pad_token=PAD,
    first_word=FIRST_WORD,
)


@conformance(CASE)
def test_deepseek_vl(check):
    check()
