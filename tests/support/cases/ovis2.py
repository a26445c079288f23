"""Ovis2 for the conformance kit: visual words, and a separator between two tiles."""

import torch
from transformers import Ovis2Config, Ovis2ForConditionalGeneration, Qwen2Config
from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

from support.cases.llava import text_shape
from support.tiny import PAD, PATCH, VOCABULARY
from support.tiny_qwen import ready
from vflowopt_hf.families.ovis2 import Ovis2
from vflowopt_hf.testing.case import Case

IMAGE, START, GRID, COLUMN, ROW, END, FIRST_WORD = 1, 2, 4, 5, 6, 7, 8
SIDE, STRIDE = 48, 2


def tiny_ovis2(attention: str = "sdpa") -> Ovis2ForConditionalGeneration:
    """A random model."""
    torch.manual_seed(0)
    config = Ovis2Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": SIDE,
            "patch_size": PATCH,
            "hidden_stride": STRIDE,
            "vocab_size": 40,
            "num_visual_indicator_tokens": 5,
            "tokenize_function": "softmax",
        },
        text_config=Qwen2Config(**text_shape()),
        image_token_id=IMAGE,
        visual_indicator_token_ids=[START, GRID, COLUMN, ROW, END],
        vocab_size=VOCABULARY,
        hidden_size=48,
        attn_implementation=attention,
    )
    model = ready(Ovis2ForConditionalGeneration(config))
    torch.nn.init.normal_(model.model.visual_embeddings_table.weight)
    return model


def image_processor() -> Ovis2ImageProcessorPil:
    """Upstream's own image processor, for the tiny tower."""
    return Ovis2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, crop_to_patches=True, max_patches=4)


def prompt(model, modality, unit, placeholder):
    """The whole image, then its tiles, if any, with one separator between them."""
    tokens = (SIDE // PATCH // STRIDE) ** 2
    tile = [placeholder] * tokens
    more = [i for number in range(unit.layout.tokens // tokens - 1) for i in ([COLUMN] * (number > 0) + tile)]
    return [START, *tile, GRID, *more, END]


CASE = Case(
    family=Ovis2(),
    model=tiny_ovis2,
    image_processor=image_processor,
    image_sizes=((48, 48), (40, 100), (150, 50), (100, 100)),
    pad_token=PAD,
    first_word=FIRST_WORD,
    prompt=prompt,
)
