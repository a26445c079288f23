"""The architectures that reference models exist for; all share scenes, questions, tokenizer and training."""

from __future__ import annotations

import json
from pathlib import Path

from ..names import NAMES
from .base import Architecture
from .dense import DenseQwen2VL
from .llava_next import LlavaNext
from .llava_onevision import LlavaOnevision
from .qwen2_vl import Qwen2VL
from .qwen3_5 import Qwen35

__all__ = ["ARCHITECTURES", "Architecture", "named", "of_weights"]

ARCHITECTURES = {one.name: one for one in (LlavaOnevision(), LlavaNext(), Qwen2VL(), DenseQwen2VL(), Qwen35())}
"""By the name of the reference model."""

assert tuple(ARCHITECTURES) == NAMES


def named(name: str) -> Architecture:
    """The architecture of a reference model.

    Raises:
        ValueError: no such model.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"there is no reference model {name!r}; there are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def of_weights(directory: Path | str) -> Architecture:
    """The architecture of weights in a directory, by its ``config.json``.

    Raises:
        OSError: there is no such file.
        ValueError: an architecture that no reference model has.
    """
    config = json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))
    kind, words = config.get("model_type"), config.get("text_config", {}).get("vocab_size")
    for architecture in ARCHITECTURES.values():
        if (architecture.model_type, len(architecture.task.vocabulary)) == (kind, words):
            return architecture
    known = ", ".join(architecture.model_type for architecture in ARCHITECTURES.values())
    raise ValueError(f"weights in {str(directory)!r} are of type {kind!r}; reference models are {known}")
