"""A word-level tokenizer over the closed vocabulary, in the ordinary fast tokenizer's file format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .vocabulary import IMAGE, PAD, SPECIAL, TURN_END, UNKNOWN, VIDEO, VOCABULARY

CHAT_TEMPLATE: Final = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] in ('image', 'video') %}<{{ part['type'] }}>{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
"""Images first, then text, as the model was trained."""


def build_tokenizer(vocabulary: Mapping[str, int] = VOCABULARY) -> PreTrainedTokenizerFast:
    """The tokenizer whose files are shipped: lower-cases, splits off punctuation, pads on the left."""
    inner = Tokenizer(models.WordLevel(dict(vocabulary), unk_token=UNKNOWN))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=TURN_END,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE, "video_token": VIDEO},
        chat_template=CHAT_TEMPLATE,
        model_max_length=16384,
    )
