"""Mistral 3 for the conformance kit: separators between rows of visual tokens."""

import torch
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, MistralConfig, PixtralVisionConfig
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

from support.cases.llava import text_shape
from support.tiny import PATCH
from support.tiny_qwen import ready
from vflowopt_hf.families.mistral3 import Mistral3
from vflowopt_hf.testing.case import Case

PAD, IMAGE, BREAK, EOS, END, FIRST_WORD = 0, 1, 2, 3, 4, 5
MERGE, LONGEST = 2, 84


def tower() -> PixtralVisionConfig:
    """A tiny Pixtral tower."""
    return PixtralVisionConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, patch_size=PATCH
    )


def tiny_mistral3(attention: str = "sdpa") -> Mistral3ForConditionalGeneration:
    """A random model."""
    torch.manual_seed(0)
    config = Mistral3Config(
        vision_config=tower(),
        text_config=MistralConfig(**text_shape(), head_dim=12, sliding_window=None),
        image_token_index=IMAGE,
        spatial_merge_size=MERGE,
        tie_word_embeddings=False,
        attn_implementation=attention,
    )
    return ready(Mistral3ForConditionalGeneration(config))


def image_processor() -> PixtralImageProcessorPil:
    """Upstream's own; images become multiples of a visual token, as upstream's processor asks of it."""
    side = PATCH * MERGE
    return PixtralImageProcessorPil(size={"longest_edge": LONGEST}, patch_size={"height": side, "width": side})


def prompt(model, modality, unit, placeholder):
    """A separator after each row, and another one after the last."""
    _, rows, columns = unit.layout.position.max(axis=0) + 1
    ids = [*[placeholder] * columns, BREAK] * rows
    return [*ids[:-1], END]


CASE = Case(
    family=Mistral3(),
    model=tiny_mistral3,
    image_processor=image_processor,
    image_sizes=((48, 48), (24, 96), (100, 40), (150, 170)),  # square, wide, tall, larger than the longest edge
    pad_token=PAD,
    first_word=FIRST_WORD,
    prompt=prompt,
)
