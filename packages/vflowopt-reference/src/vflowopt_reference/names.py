"""Names of the reference models and where their weights lie; imports nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Final

NAMES: Final = ("reference", "reference-next", "reference-qwen2vl", "reference-dense", "reference-qwen35")
"""What ``--model`` takes."""


def path(name: str = "reference") -> Path:
    """The directory of shipped weights, for any code that takes a checkpoint of that architecture.

    Raises:
        ValueError: no such model.
    """
    if name not in NAMES:
        raise ValueError(f"there is no reference model {name!r}; there are {', '.join(NAMES)}")
    return Path(__file__).parent / "weights" / name
