"""SmolVLM for the conformance kit: images of one crop, and a stronger pixel shuffle than that of Idefics3."""

import torch
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

from support.cases.idefics3 import FIRST_WORD, IMAGE, PAD, SIDE, ready, split_prompt, text_config, vision_sizes
from vflowopt_hf.families.idefics3 import SmolVLM
from vflowopt_hf.testing.case import Case

SHUFFLE, PATCH = 3, 4


def tiny_smolvlm(attention: str = "sdpa") -> SmolVLMForConditionalGeneration:
    """A random model."""
    torch.manual_seed(0)
    config = SmolVLMConfig(
        vision_config=SmolVLMVisionConfig(**vision_sizes() | {"patch_size": PATCH}),
        text_config=text_config(),
        image_token_id=IMAGE,
        scale_factor=SHUFFLE,
        attn_implementation=attention,
    )
    return ready(SmolVLMForConditionalGeneration(config))


def image_processor(**options) -> SmolVLMImageProcessorPil:
    """Upstream's own image processor, for the tiny tower; by default too small images to be split."""
    options = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}} | options
    return SmolVLMImageProcessorPil(**options)


def image_prompt(model, modality, unit, placeholder):
    """An image that is not split."""
    return split_prompt(0, 0, unit.layout.tokens)


CASE = Case(
    family=SmolVLM(),
    model=tiny_smolvlm,
    image_processor=image_processor,
    image_sizes=((48, 48), (40, 100), (150, 50)),
    pad_token=PAD,
    first_word=FIRST_WORD,
    prompt=image_prompt,
)
