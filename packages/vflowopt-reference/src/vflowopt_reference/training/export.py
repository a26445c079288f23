"""Writes a model and its processor's files as ``from_pretrained`` reads them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch

from ..architectures.base import Architecture
from ..tokenizer import build_tokenizer


def export(architecture: Architecture, model: Any, out: Path) -> Path:
    """Half-precision weights, configurations, tokenizer and processor files; ``model`` is left as it is."""
    out.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).eval().to(torch.float16).save_pretrained(out)
    build_tokenizer(architecture.task.vocabulary).save_pretrained(out)
    for name, content in architecture.processor_files().items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n")
    return out
