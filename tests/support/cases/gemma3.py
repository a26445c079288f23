"""Gemma 3 for the conformance kit: windows are shorter than an image, and kinds of layers alternate."""

import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig, SiglipVisionConfig
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from support.tiny import sharpen
from vflowopt_hf.families.gemma3 import Gemma3
from vflowopt_hf.testing.case import Case

PAD, IMAGE, BEGIN, END, FIRST_WORD, VOCABULARY = 0, 1, 2, 3, 5, 64
SIDE, PATCH, TOKENS = 72, 6, 36
WINDOW = 20
SLIDING, FULL = "sliding_attention", "full_attention"
LAYER_TYPES = [SLIDING, SLIDING, FULL, SLIDING, FULL, SLIDING]


def tiny_gemma3(attention: str = "sdpa") -> Gemma3ForConditionalGeneration:
    """A random model; small scores are scaled up so that attention is far from uniform."""
    torch.manual_seed(0)
    vision = SiglipVisionConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = Gemma3TextConfig(
        hidden_size=48,
        num_hidden_layers=len(LAYER_TYPES),
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        intermediate_size=64,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        query_pre_attn_scalar=2,  # queries and keys are normalised, so weights cannot sharpen their product
        sliding_window=WINDOW,
        layer_types=LAYER_TYPES,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=4,
    )
    config = Gemma3Config(
        vision_config=vision,
        text_config=text,
        mm_tokens_per_image=TOKENS,
        image_token_index=IMAGE,
        boi_token_index=BEGIN,
        eoi_token_index=END,
        attn_implementation=attention,
    )
    model = Gemma3ForConditionalGeneration(config).eval()
    sharpen(model)
    for layer in model.model.vision_tower.encoder.layers:  # so sharp a tower would amplify rounding errors
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
            projection.weight.data.mul_(0.4)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.3)  # zeros at first
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model


def image_processor(**options) -> Gemma3ImageProcessorPil:
    """Upstream's own image processor, for the tiny tower."""
    return Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE}, **options)


def image_prompt(model, modality, unit, placeholder):
    """An image between its markers, which keep neighbouring images apart in the mask."""
    return [BEGIN, *[placeholder] * unit.layout.tokens, END]


def token_types(model, inputs, prompt=None):
    """1 for image tokens, which attend to each other in both directions."""
    return {"token_type_ids": (inputs["input_ids"] == IMAGE).long()}


CASE = Case(
    family=Gemma3(),
    model=tiny_gemma3,
    image_processor=image_processor,
    image_sizes=((72, 72), (40, 120), (150, 60)),
    pad_token=PAD,
    first_word=FIRST_WORD,
    prompt=image_prompt,
    extra_inputs=token_types,
)
