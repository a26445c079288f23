"""The vocabulary of dense pictures: that of scenes, and the words that charts, ledgers and counting need."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ..vocabulary import SHAPES
from ..vocabulary import VOCABULARY as SCENES

PLURALS: Final[Mapping[str, str]] = MappingProxyType(
    {f"{shape}{'es' * (shape == 'cross') or 's'}": shape for shape in SHAPES}
)
"""Plural to singular."""

_GRAMMAR: Final = ("how", "many", "objects", "value", "of", "bar", "highest", "number", "at")

VOCABULARY: Final[Mapping[str, int]] = MappingProxyType(
    dict(SCENES) | {word: len(SCENES) + k for k, word in enumerate((*_GRAMMAR, *PLURALS))}
)
"""Word to token id; words of scenes keep theirs."""
