"""LLaVA-NeXT with a Mistral decoder, as in its Mistral checkpoints, for the conformance kit."""

from dataclasses import replace

from transformers import LlavaNextForConditionalGeneration, MistralConfig

from support.cases import llava_next
from support.cases.llava import text_shape


def tiny_llava_next_mistral(attention: str = "sdpa") -> LlavaNextForConditionalGeneration:
    """A random model."""
    text = MistralConfig(**text_shape(), sliding_window=None)
    return llava_next.tiny_llava_next(attention, text_config=text)


CASE = replace(llava_next.CASE, model=tiny_llava_next_mistral)
