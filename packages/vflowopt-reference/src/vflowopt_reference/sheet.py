"""A picture of some scenes or dense pictures: ``python -m vflowopt_reference.sheet FILE``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from .dataset import held_out_picture

_GAP: Final = 8
_PLACES: Final = {
    "reference": ((0, 0, 0), (0, 1, 112 + _GAP), (1, 2, 0), (1, 5, 112 + _GAP), (0, 3, 280 + 2 * _GAP)),
    "reference-dense": ((0, 0, 0), (0, 2, 112 + _GAP), (0, 4, 224 + 2 * _GAP), (0, 6, 384 + 3 * _GAP)),
}
"""Row, number of the picture, left edge; by the model that is asked."""
_SIZES: Final = {"reference": (520, 300), "reference-dense": (568, 160)}


def sheet(seed: int = 0, model: str = "reference") -> Image.Image:
    """Validation pictures on canvases of different sizes, in 256 colours."""
    page = Image.new("RGB", _SIZES[model], "white")
    for row, index, left in _PLACES[model]:
        picture = held_out_picture(index, seed=seed, split="validation", model=model)
        page.paste(Image.fromarray(picture.image), (left, 120 * row))
    return page.quantize(256, dither=Image.Dither.NONE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m vflowopt_reference.sheet", description="Draw some pictures as PNG."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--model", choices=tuple(_PLACES), default="reference", help="that is asked about them")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures (default 0)")
    options = parser.parse_args(arguments)
    sheet(options.seed, options.model).save(options.file, optimize=True)


if __name__ == "__main__":
    main()
