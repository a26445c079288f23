"""Muted backgrounds: plain, gradients, smooth and fine noise, stripes, checkers, and two of them divided by a line."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .geometry import Canvas

Pixels = NDArray[np.float32]


def texture(rng: np.random.Generator, canvas: Canvas) -> Pixels:
    """One texture, ``[height, width, 3]``, in 8-bit units but neither rounded nor clipped."""
    height, width = canvas
    base = (rng.uniform(60, 190) + rng.uniform(-18, 18, 3)).astype(np.float32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    match int(rng.integers(6)):
        case 0:
            pattern = np.zeros(canvas, np.float32)
        case 1:
            slope_y, slope_x = rng.uniform(-40, 40, 2)
            pattern = y * np.float32(slope_y / height) + x * np.float32(slope_x / width)
        case 2:
            cells = int(rng.integers(4, 10))
            rows, columns = max(2, cells * height // 112), max(2, cells * width // 112)
            coarse = Image.fromarray(rng.integers(0, 255, (rows, columns), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
            pattern = (smooth - 127) * np.float32(rng.uniform(0.2, 0.5))
        case 3:
            pattern = rng.standard_normal(canvas, dtype=np.float32) * np.float32(rng.uniform(10, 35))
        case 4:
            angle, period = rng.uniform(0, np.pi), rng.uniform(4, 14)
            phase = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) * np.float32(2 * np.pi / period)
            pattern = np.sin(phase) * np.float32(rng.uniform(10, 40))
        case _:
            side = int(rng.integers(4, 14))
            pattern = ((x // side + y // side) % 2) * np.float32(rng.uniform(15, 60))
    return base + pattern[..., None]


def background(rng: np.random.Generator, canvas: Canvas) -> NDArray[np.uint8]:
    """A texture, or two divided by a straight line (70 %), as an 8-bit image ``[height, width, 3]``."""
    height, width = canvas
    pixels = texture(rng, canvas)
    if rng.random() < 0.7:
        other, angle = texture(rng, canvas), rng.uniform(0, 2 * np.pi)
        y, x = np.mgrid[0:height, 0:width]
        distance = (x - width / 2) * np.cos(angle) + (y - height / 2) * np.sin(angle)
        pixels = np.where((distance > rng.uniform(-0.22, 0.22) * min(canvas))[..., None], other, pixels)
    return np.clip(pixels, 0, 255).astype(np.uint8)
