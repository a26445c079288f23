"""Procedural scenes: a few coloured shapes, each with a digit on it, over textured and cluttered backgrounds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .geometry import PATCH, SIDE, VIEW, Canvas, margins
from .textures import background
from .vocabulary import COLORS, DIGITS, SHAPES

JITTER: Final = 1.5
"""Objects sit within so many pixels of a corner of the patch lattice."""
SPACING: Final = 29.0
"""Least distance between the centres of two objects, in pixels: they do not overlap."""

# Nearest an object's centre may come to the border of the canvas or to a seam between views, in patches.
_CLEARANCE: Final = 2
_CLUTTER_LETTERS: Final = "ABCDEFGHKMNRTUVXYZ"


@dataclass(frozen=True, slots=True)
class Object:
    """One shape. ``x`` and ``y`` are the centre in pixels of the canvas, ``radius`` its rough half-width."""

    color: str
    shape: str
    digit: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """An image and what is in it.

    Attributes:
        image: 8-bit RGB, ``[height, width, 3]``.
        objects: 2 to 7 objects; no two agree in both colour and shape.
        owner: ``[height, width]``; 0 is background, k is the k-th object.
    """

    image: NDArray[np.uint8]
    objects: tuple[Object, ...]
    owner: NDArray[np.uint8]

    @property
    def canvas(self) -> Canvas:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]


def object_range(canvas: Canvas) -> tuple[int, int]:
    """Fewest and most objects on a canvas: more on a larger one, never above 7."""
    area = canvas[0] * canvas[1] / VIEW**2
    return (2 if area < 2 else 3), min(7, round(2.5 + 2 * area))


def scene(rng: np.random.Generator, canvas: Canvas) -> Scene:
    """Draws one scene; everything about it follows from the state of ``rng``.

    Raises:
        ValueError: the canvas does not fit its grid (see :func:`vflowopt_reference.geometry.margins`).
    """
    height, width = canvas
    image = Image.fromarray(background(rng, canvas))
    draw = ImageDraw.Draw(image)
    _clutter(rng, draw, canvas)
    owner = Image.new("L", (width, height), 0)
    owner_draw = ImageDraw.Draw(owner)
    objects = _place(rng, canvas)
    for number, item in enumerate(objects, 1):
        border = outline(item)
        fill = _tuple(np.clip(np.asarray(COLORS[item.color]) + rng.normal(0, 9, 3), 0, 255))
        draw.polygon(border, fill=fill)
        owner_draw.polygon(border, fill=number)
        light = 0.3 * fill[0] + 0.59 * fill[1] + 0.11 * fill[2] > 115
        # A triangle's widest part lies below its centre.
        below = 1.5 if item.shape == "triangle" else 0.0
        ink = (10, 10, 10) if light else (250, 250, 250)
        draw.text((item.x, item.y + below), item.digit, fill=ink, font=font(14), anchor="mm")
    noise = rng.standard_normal((height, width, 3), dtype=np.float32) * 4
    pixels = np.clip(np.asarray(image, np.float32) + noise, 0, 255).astype(np.uint8)
    return Scene(pixels, tuple(objects), np.asarray(owner))


def _clutter(rng: np.random.Generator, draw: ImageDraw.ImageDraw, canvas: Canvas) -> None:
    """Grey lines and letters, none of which any question is about."""
    height, width = canvas
    for _ in range(int(rng.integers(0, 8 * height * width // VIEW**2))):
        ink = _tuple(np.clip(rng.uniform(20, 235) + rng.uniform(-15, 15, 3), 0, 255))
        if rng.random() < 0.6:
            (x0, x1), (y0, y1) = rng.uniform(0, width, 2), rng.uniform(0, height, 2)
            draw.line([(x0, y0), (x1, y1)], fill=ink, width=int(rng.integers(1, 3)))
        else:
            letter = _CLUTTER_LETTERS[int(rng.integers(len(_CLUTTER_LETTERS)))]
            corner = (float(rng.uniform(0, width - 10)), float(rng.uniform(0, height - 10)))
            draw.text(corner, letter, fill=ink, font=font(int(rng.integers(9, 15))))


def _place(rng: np.random.Generator, canvas: Canvas) -> list[Object]:
    low, high = object_range(canvas)
    wanted, objects = int(rng.integers(low, high + 1)), list[Object]()
    rows, columns = (_corners(canvas[axis], margins(canvas)[axis]) for axis in (0, 1))
    names = tuple(COLORS)
    for _ in range(400):
        if len(objects) == wanted:
            break
        y, x = rng.choice(rows) + rng.uniform(-JITTER, JITTER), rng.choice(columns) + rng.uniform(-JITTER, JITTER)
        color, shape = names[int(rng.integers(len(names)))], SHAPES[int(rng.integers(len(SHAPES)))]
        crowded = any((x - o.x) ** 2 + (y - o.y) ** 2 < SPACING**2 for o in objects)
        if crowded or any(o.color == color and o.shape == shape for o in objects):
            continue
        digit = DIGITS[int(rng.integers(len(DIGITS)))]
        objects.append(Object(color, shape, digit, float(x), float(y), float(rng.uniform(10, 12.5))))
    return objects


def _corners(length: int, margin: int) -> NDArray[np.int64]:
    """Coordinates of the lattice corners along one side of the canvas that are clear of borders and seams."""
    corner = np.arange(_CLEARANCE, length // PATCH - _CLEARANCE + 1)
    in_view = (corner + margin // PATCH) % SIDE
    return corner[(in_view >= _CLEARANCE) & (in_view <= SIDE - _CLEARANCE)] * PATCH


def outline(item: Object) -> list[tuple[float, float]]:
    """The polygon of a shape; sizes are matched so that no shape is told by its area."""
    r, unit = item.radius, list[tuple[float, float]]()
    match item.shape:
        case "square":
            unit = [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]
        case "diamond":
            unit = [(0, -1.12), (1.12, 0), (0, 1.12), (-1.12, 0)]
        case "triangle":
            unit = [(0, -1.25), (1.15, 0.8), (-1.15, 0.8)]
        case "cross":
            a, b = 1.05, 0.48
            unit = [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b)]
            unit += [(b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)]
        case "star":
            reach = [1.3 if i % 2 == 0 else 0.66 for i in range(10)]
            angle = [-np.pi / 2 + i * np.pi / 5 for i in range(10)]
            unit = [(k * float(np.cos(t)), k * float(np.sin(t))) for k, t in zip(reach, angle, strict=True)]
        case "circle":
            unit = [(float(np.cos(t)), float(np.sin(t))) for t in np.arange(24) * (2 * np.pi / 24)]
        case _:
            raise ValueError(f"no such shape: {item.shape!r}; shapes are {', '.join(SHAPES)}")
    return [(item.x + r * u, item.y + r * v) for u, v in unit]


def _tuple(values: NDArray[np.floating]) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in values)
    return red, green, blue


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font; ``size`` in pixels."""
    return ImageFont.load_default(size=size)
