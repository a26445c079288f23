"""LLaVA-1.5 for the conformance kit, and what its successors share with it."""

from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from support.tiny import CROP, EOS, IMAGE, LAYERS, PAD, PATCH, VOCABULARY, sharpen
from vflowopt_hf.families.llava import Llava
from vflowopt_hf.testing.case import Case

TOWER_LAYERS = 4


def clip_tower() -> CLIPVisionConfig:
    """A tiny CLIP tower; with ``vision_feature_layer=-2`` its last layer is not used."""
    return CLIPVisionConfig(
        hidden_size=32,
        num_hidden_layers=TOWER_LAYERS,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=CROP,
        patch_size=PATCH,
        projection_dim=16,
    )


def text_shape() -> dict[str, Any]:
    """Arguments of the text decoder's configuration, whatever its architecture."""
    return {
        "hidden_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
    }


def ready(model):
    """Weights scaled up so that attention is far from uniform; generation that never ends by itself."""
    sharpen(model.eval())
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model


def tiny_llava(attention: str = "sdpa", **options) -> LlavaForConditionalGeneration:
    """A random model; options go to its configuration."""
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=options.pop("vision_config", None) or clip_tower(),
        text_config=LlamaConfig(**text_shape()),
        image_token_index=IMAGE,
        attn_implementation=attention,
        **options,
    )
    return ready(LlavaForConditionalGeneration(config))


def image_processor() -> LlavaImageProcessorPil:
    """Upstream's own image processor, for the tiny crop size."""
    return LlavaImageProcessorPil(size={"shortest_edge": CROP}, crop_size={"height": CROP, "width": CROP})


CASE = Case(
    family=Llava(),
    model=tiny_llava,
    image_processor=image_processor,
    image_sizes=((42, 42), (30, 90), (100, 60)),
    pad_token=PAD,
    first_word=5,
)
