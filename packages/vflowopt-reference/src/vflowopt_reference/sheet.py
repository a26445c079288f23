"""A picture of some scenes: ``python -m vflowopt_reference.sheet FILE``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from .dataset import held_out_scene

_GAP: Final = 8
_PLACES: Final = ((0, 0, 0), (0, 1, 112 + _GAP), (1, 2, 0), (1, 5, 112 + _GAP), (0, 3, 280 + 2 * _GAP))
"""Row, number of the scene, left edge."""


def sheet(seed: int = 0) -> Image.Image:
    """Five validation scenes on canvases of different sizes, in 256 colours."""
    page = Image.new("RGB", (520, 300), "white")
    for row, index, left in _PLACES:
        page.paste(Image.fromarray(held_out_scene(index, seed=seed, split="validation").image), (left, 120 * row))
    return page.quantize(256, dither=Image.Dither.NONE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(prog="python -m vflowopt_reference.sheet", description="Draw some scenes as PNG.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (default 0)")
    options = parser.parse_args(arguments)
    sheet(options.seed).save(options.file, optimize=True)


if __name__ == "__main__":
    main()
