"""Crowds: ten to twenty-six small objects, each with a digit, over a textured background."""

from __future__ import annotations

from itertools import product

import numpy as np
from PIL import Image, ImageDraw

from ..geometry import Canvas
from ..textures import background
from ..vocabulary import COLORS, DIGITS, SHAPES
from .ink import draw_shape, noisy
from .picture import Item, Mark, Picture, cells


def crowd(rng: np.random.Generator, canvas: Canvas) -> Picture:
    """A fifth to a third of the cells show an object, in four to eight colours."""
    rows, columns = cells(canvas)
    count = int(rng.integers(rows * columns // 5 + 1, rows * columns // 3 + 1))
    palette = [str(c) for c in rng.permutation(list(COLORS))[: int(rng.integers(4, len(COLORS) + 1))]]
    pairs = list(product(palette, SHAPES))
    count = min(count, len(pairs))
    chosen = rng.permutation(len(pairs))[:count]
    places = rng.permutation(rows * columns)[:count]
    image = Image.fromarray(background(rng, canvas))
    draw = ImageDraw.Draw(image)
    items = list[Item]()
    for pair, place in zip(chosen, places, strict=True):
        (color, shape), (row, column) = pairs[pair], divmod(int(place), columns)
        items.append(Item(color, shape, DIGITS[int(rng.integers(10))], row, column))
        draw_shape(rng, draw, color, shape, items[-1].digits, row, column)
    marks = tuple(Mark(o.row, o.column, o.color, o.shape, o.digits) for o in items)
    return Picture(noisy(rng, image), "crowd", tuple(items), marks)
