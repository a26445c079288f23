"""The questions that the model answers, in the only wording it knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .scene import Object

KINDS: Final = ("color_by_shape", "shape_by_color", "digit_by_color", "digit_by_shape", "digit_by_both")
"""The kinds the model is measured on. Each has a one-word answer."""
DESCRIBE: Final = "describe_by_color"
"""Trained as well, not measured: an answer of two words, for decoding more than one step."""


@dataclass(frozen=True, slots=True)
class Question:
    """A well-posed question about one scene and its answer, in words of the vocabulary."""

    kind: str
    text: str
    answer: str


def questions(objects: Sequence[Object]) -> list[Question]:
    """Every well-posed question of every kind: what it asks by must single out one object."""
    colors, shapes = Counter(o.color for o in objects), Counter(o.shape for o in objects)
    found = list[Question]()
    for item in objects:
        if shapes[item.shape] == 1:
            found.append(Question("color_by_shape", f"what color is the {item.shape}?", item.color))
            found.append(Question("digit_by_shape", f"what digit is on the {item.shape}?", item.digit))
        if colors[item.color] == 1:
            found.append(Question("shape_by_color", f"what shape is the {item.color} object?", item.shape))
            found.append(Question("digit_by_color", f"what digit is on the {item.color} object?", item.digit))
            answer = f"{item.shape} {item.digit}"
            found.append(Question(DESCRIBE, f"describe the {item.color} object.", answer))
        # Scenes never hold two objects of one colour and shape.
        found.append(Question("digit_by_both", f"what digit is on the {item.color} {item.shape}?", item.digit))
    return found
