"""The closed vocabulary of scenes and questions: eight colours, six shapes, ten digits and the words around them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

COLORS: Final[Mapping[str, tuple[int, int, int]]] = MappingProxyType(
    {
        "red": (220, 40, 40),
        "green": (40, 170, 60),
        "blue": (50, 80, 225),
        "yellow": (235, 215, 50),
        "purple": (150, 50, 190),
        "orange": (245, 140, 30),
        "cyan": (60, 205, 215),
        "pink": (250, 130, 185),
    }
)
"""Colour name to its mean 8-bit RGB value; objects vary around it."""

SHAPES: Final = ("circle", "square", "triangle", "diamond", "cross", "star")
DIGITS: Final = tuple("0123456789")

PAD: Final = "<pad>"
UNKNOWN: Final = "<unk>"
TURN_START: Final = "<|im_start|>"
TURN_END: Final = "<|im_end|>"
IMAGE: Final = "<image>"
VIDEO: Final = "<video>"
SPECIAL: Final = (PAD, UNKNOWN, TURN_START, TURN_END, IMAGE, VIDEO)

_ROLES: Final = ("user", "assistant", "system")
_GRAMMAR: Final = ("what", "color", "shape", "digit", "is", "on", "the", "object", "describe", "image")
_SPARE: Final = ("in", "a", "and", "with")  # never trained, for prompts of one's own
_MARKS: Final = ("?", ".", ",")

_WORDS: Final = (*SPECIAL, *_ROLES, *_GRAMMAR, *_SPARE, *_MARKS, *COLORS, *SHAPES, *DIGITS)

VOCABULARY: Final[Mapping[str, int]] = MappingProxyType({word: index for index, word in enumerate(_WORDS)})
"""Word to token id."""
