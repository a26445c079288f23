"""The canvas sizes that scenes are drawn on, ``(height, width)``: from one view to six, tiled in every way."""

from __future__ import annotations

from typing import Final

from .geometry import Canvas

CANVASES: Final[tuple[Canvas, ...]] = (
    (112, 112),
    (112, 160),
    (176, 112),
    (112, 224),
    (224, 112),
    (144, 224),
    (224, 176),
    (224, 224),
    (224, 336),
)
"""406 to 1008 visual tokens. The non-square ones are padded and unpadded, the last is interpolated."""
