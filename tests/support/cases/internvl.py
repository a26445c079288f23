"""InternVL for the conformance kit: tiles and a thumbnail, a class token, normalised queries and keys."""

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration, Qwen2Config
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.internvl.configuration_internvl import InternVLVisionConfig

from support.tiny import sharpen
from vflowopt_hf.families.internvl import InternVL
from vflowopt_hf.testing.case import Case

PAD, IMAGE, BEGIN, END, FIRST_WORD, VOCABULARY = 0, 1, 2, 3, 5, 64
SIDE, PATCH, LAYERS = 48, 6, 6


def tiny_internvl(attention: str = "sdpa", **options) -> InternVLForConditionalGeneration:
    """A random model; small scores are scaled up so that attention is far from uniform."""
    torch.manual_seed(0)
    vision = InternVLVisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=SIDE,
        patch_size=PATCH,
        use_qk_norm=True,
    )
    text = Qwen2Config(
        hidden_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=4,
    )
    config = InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, attn_implementation=attention, **options
    )
    model = InternVLForConditionalGeneration(config).eval()
    sharpen(model)
    torch.nn.init.normal_(model.model.vision_tower.embeddings.position_embeddings, std=0.3)  # zeros at first
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model


def image_processor(**options) -> GotOcr2ImageProcessorPil:
    """Upstream's own image processor, for the tiny tower."""
    options = {"crop_to_patches": True, "max_patches": 4} | options
    return GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, **options)


def image_prompt(model, modality, unit, placeholder):
    """An image between its markers, which keep neighbouring images apart."""
    return [BEGIN, *[placeholder] * unit.layout.tokens, END]


CASE = Case(
    family=InternVL(),
    model=tiny_internvl,
    image_processor=image_processor,
    image_sizes=((48, 48), (40, 100), (150, 50), (100, 100)),
    pad_token=PAD,
    first_word=FIRST_WORD,
    prompt=image_prompt,
)
