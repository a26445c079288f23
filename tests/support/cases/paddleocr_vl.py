"""PaddleOCR-VL for the conformance kit."""

import torch
from transformers import PaddleOCRVLConfig, PaddleOCRVLForConditionalGeneration
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import PaddleOCRVLImageProcessorPil

from support.cases.qwen2_vl import SIZES
from support.tiny_qwen import FACTOR, LAYERS, MERGE, PAD, PATCH, VOCABULARY, ready
from vflowopt_hf.families.paddleocr_vl import PaddleOCRVL
from vflowopt_hf.testing.case import Case
from vflowopt_hf.upstream import installed

IMAGE, VIDEO, BEGIN, END, EOS, FIRST_WORD = 1, 2, 3, 4, 5, 8


def tiny_paddleocr_vl(attention: str = "sdpa") -> PaddleOCRVLForConditionalGeneration:
    """A random model."""
    torch.manual_seed(0)
    config = PaddleOCRVLConfig(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": 48,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
        },
        text_config={
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 12,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 4096,
            "pad_token_id": PAD,
            "bos_token_id": None,
            "eos_token_id": EOS,
            "tie_word_embeddings": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=BEGIN,
        vision_end_token_id=END,
        tie_word_embeddings=False,
        attn_implementation=attention,
    )
    return ready(PaddleOCRVLForConditionalGeneration(config))


def image_processor() -> PaddleOCRVLImageProcessorPil:
    """Upstream's own image processor, for the tiny patch size."""
    size = {"shortest_edge": FACTOR**2, "longest_edge": 60 * FACTOR**2}
    return PaddleOCRVLImageProcessorPil(size=size, patch_size=PATCH, merge_size=MERGE)


def prompt(model, modality, unit, placeholder):
    """An image between its markers."""
    return [BEGIN, *[placeholder] * unit.layout.tokens, END]


def token_types(model, inputs, prompt):
    """0 for text, 1 for images."""
    return {"mm_token_type_ids": (inputs["input_ids"] == IMAGE).long()}


CASE = Case(
    family=PaddleOCRVL(),
    model=tiny_paddleocr_vl,
    image_processor=image_processor,
    image_sizes=SIZES["image_sizes"],
    pad_token=PAD,
    first_word=FIRST_WORD,
    prompt=prompt,
    extra_inputs=token_types,
)

_BEAMS = "older releases give the beams of a prompt each row of pixels in turn, unpruned, too"
UPSTREAM_FAULTS = dict.fromkeys(("beam search-eager", "beam search-sdpa"), _BEAMS) if installed() < (5, 24) else {}
