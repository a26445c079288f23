"""Idefics3 for the conformance kit: split images whose crops are named in the prompt."""

import torch
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, LlamaConfig
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from support.tiny import sharpen
from vflowopt_hf.families.idefics3 import Idefics3
from vflowopt_hf.testing.case import Case

PAD, IMAGE, AROUND, GLOBAL, NEWLINE, BLANK_LINE, EOS, FIRST_CROP, FIRST_WORD, VOCABULARY = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    16,
    64,
)
SIDE, PATCH, SHUFFLE, LAYERS = 48, 6, 2, 6
LONGEST = 2 * SIDE


def text_config() -> LlamaConfig:
    """A tiny decoder."""
    return LlamaConfig(
        hidden_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        vocab_size=VOCABULARY,
        max_position_embeddings=4096,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=EOS,
    )


def vision_sizes() -> dict[str, int]:
    """Sizes of a tiny tower."""
    return {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "image_size": SIDE,
        "patch_size": PATCH,
    }


def ready(model: torch.nn.Module) -> torch.nn.Module:
    """A random model as the kit wants it; weights are scaled up so that attention is far from uniform."""
    sharpen(model.eval())
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    return model


def tiny_idefics3(attention: str = "sdpa") -> Idefics3ForConditionalGeneration:
    """A random model."""
    torch.manual_seed(0)
    config = Idefics3Config(
        vision_config=Idefics3VisionConfig(**vision_sizes()),
        text_config=text_config(),
        image_token_id=IMAGE,
        scale_factor=SHUFFLE,
        attn_implementation=attention,
    )
    return ready(Idefics3ForConditionalGeneration(config))


def image_processor(**options) -> Idefics3ImageProcessorPil:
    """Upstream's own image processor, for the tiny tower; images of at most 2 x 2 crops."""
    options = {"size": {"longest_edge": LONGEST}, "max_image_size": {"longest_edge": SIDE}} | options
    return Idefics3ImageProcessorPil(**options)


def split_prompt(rows: int, columns: int, tokens: int) -> list[int]:
    """What upstream's processor writes for an image of so many crops, each of ``tokens`` placeholders."""
    ids = []
    for row in range(rows):
        for column in range(columns):
            ids += [AROUND, FIRST_CROP + 2 * row + column, *[IMAGE] * tokens]
        ids.append(NEWLINE)
    if ids:
        ids[-1] = BLANK_LINE  # two newlines in a row are one token
    return [*ids, AROUND, GLOBAL, *[IMAGE] * tokens, AROUND]


def image_prompt(model, modality, unit, placeholder):
    """An image of at most 2 x 2 crops, as wide as high if it has four of them."""
    tokens = (SIDE // PATCH // model.config.scale_factor) ** 2
    crops = unit.layout.tokens // tokens - 1
    return split_prompt((crops + 1) // 2, min(crops, 2), tokens)


CASE = Case(
    family=Idefics3(),
    model=tiny_idefics3,
    image_processor=image_processor,
    image_sizes=((96, 96), (40, 90), (120, 50)),
    pad_token=PAD,
    first_word=FIRST_WORD,
    prompt=image_prompt,
)
