"""How lmms-eval reads and scores a question; answers are compared as ``vflowopt evaluate`` compares them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from transformers.image_utils import load_image

from vflowopt.cli.evaluate import is_right

DATA = Path(__file__).parent / "data"


def images(line: Mapping[str, Any]) -> list[Image.Image]:
    """The question's image."""
    return [load_image(str(DATA / line["image"]))]


def answer(line: Mapping[str, Any]) -> str:
    """An accepted answer."""
    return str(line["answers"][0])


def score(line: Mapping[str, Any], given: Sequence[str]) -> dict[str, float]:
    """1 for an accepted answer, case, punctuation and articles aside."""
    return {"accuracy": float(is_right(given[0], line["answers"]))}
