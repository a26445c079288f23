"""How marks are drawn: coloured shapes, digits on them or on paper, paper, noise."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..geometry import Canvas
from ..scene import Object, font, outline
from ..vocabulary import COLORS
from .picture import centre

JITTER: Final = 1.0
"""Marks sit within so many pixels of the centre of their cell, each way."""


def paper(rng: np.random.Generator, canvas: Canvas) -> Image.Image:
    """A light sheet of one colour."""
    tone = np.clip(rng.uniform(195, 245) + rng.uniform(-8, 8, 3), 0, 255)
    return Image.new("RGB", (canvas[1], canvas[0]), _tuple(tone))


def shade(rng: np.random.Generator, color: str) -> tuple[int, int, int]:
    """A colour near the mean of its name."""
    return _tuple(np.clip(np.asarray(COLORS[color]) + rng.normal(0, 9, 3), 0, 255))


def draw_shape(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, color: str, shape: str, digit: str, row: int, column: int
) -> None:
    """A shape within its cell, with a digit on it unless ``digit`` is empty."""
    x, y = (float(v + rng.uniform(-JITTER, JITTER)) for v in centre(row, column))
    fill = shade(rng, color)
    draw.polygon(outline(Object(color, shape, digit, x, y, float(rng.uniform(7, 8)))), fill=fill)
    if digit:
        light = 0.3 * fill[0] + 0.59 * fill[1] + 0.11 * fill[2] > 115
        below = 1.0 if shape == "triangle" else 0.0  # its widest part lies below its centre
        ink = (10, 10, 10) if light else (250, 250, 250)
        draw.text((x, y + below), digit, fill=ink, font=font(11), anchor="mm")


def draw_digit(rng: np.random.Generator, draw: ImageDraw.ImageDraw, digit: str, row: int, column: int) -> None:
    """A dark digit on paper."""
    x, y = (float(v + rng.uniform(-JITTER, JITTER)) for v in centre(row, column))
    draw.text((x, y), digit, fill=_tuple(rng.uniform(0, 60, 3)), font=font(14), anchor="mm")


def noisy(rng: np.random.Generator, image: Image.Image) -> NDArray[np.uint8]:
    """With the noise of a sensor."""
    noise = rng.standard_normal((image.height, image.width, 3), dtype=np.float32) * 4
    pixels: NDArray[np.uint8] = np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8)
    return pixels


def _tuple(values: NDArray[np.floating]) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in values)
    return red, green, blue
