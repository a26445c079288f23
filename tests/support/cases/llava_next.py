"""LLaVA-NeXT with a Llama decoder (as in its Vicuna checkpoints) for the conformance kit."""

import torch
from transformers import LlamaConfig, LlavaNextConfig, LlavaNextForConditionalGeneration
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from support.cases.llava import clip_tower, ready, text_shape
from support.tiny import CROP, IMAGE, PAD, PINPOINTS
from vflowopt_hf.families.llava_next import LlavaNext
from vflowopt_hf.testing.case import Case


def tiny_llava_next(attention: str = "sdpa", **options) -> LlavaNextForConditionalGeneration:
    """A random model; options go to its configuration."""
    torch.manual_seed(0)
    config = LlavaNextConfig(
        vision_config=options.pop("vision_config", None) or clip_tower(),
        text_config=options.pop("text_config", None) or LlamaConfig(**text_shape()),
        image_token_index=IMAGE,
        image_grid_pinpoints=PINPOINTS[1:],  # as usual without a resolution of one tile
        attn_implementation=attention,
        **options,
    )
    return ready(LlavaNextForConditionalGeneration(config))


def image_processor() -> LlavaNextImageProcessorPil:
    """Upstream's own image processor, for the tiny crop size."""
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": CROP}, crop_size={"height": CROP, "width": CROP}, image_grid_pinpoints=PINPOINTS[1:]
    )


SIZES = ((84, 84), (30, 150), (120, 40), (60, 80))
"""Square, wide, tall, unpadded; of 2 x 2 and of 1 x 3 tiles."""

CASE = Case(
    family=LlavaNext(),
    model=tiny_llava_next,
    image_processor=image_processor,
    image_sizes=SIZES,
    pad_token=PAD,
    first_word=5,
)
