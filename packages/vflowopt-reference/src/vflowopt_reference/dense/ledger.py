"""Ledgers: lines of entries, each a coloured icon with a number of two digits behind it."""

from __future__ import annotations

from itertools import product

import numpy as np
from PIL import ImageDraw

from ..geometry import Canvas
from ..vocabulary import COLORS, DIGITS, SHAPES
from .ink import draw_digit, draw_shape, noisy, paper
from .picture import Item, Mark, Picture, cells

SPAN = 3
"""Cells of an entry."""


def ledger(rng: np.random.Generator, canvas: Canvas) -> Picture:
    """Half to four fifths of the places for an entry hold one."""
    rows, columns = cells(canvas)
    image = paper(rng, canvas)
    draw = ImageDraw.Draw(image)
    left = int(rng.integers(columns % SPAN + 1))
    places = [(row, left + SPAN * k) for row in range(rows) for k in range(columns // SPAN)]
    count = int(len(places) * rng.uniform(0.5, 0.8))
    pairs = list(product(COLORS, SHAPES))
    items, marks = list[Item](), list[Mark]()
    for pair, place in zip(rng.permutation(len(pairs))[:count], rng.permutation(len(places))[:count], strict=True):
        (color, shape), (row, column) = pairs[pair], places[place]
        digits = "".join(DIGITS[int(d)] for d in rng.integers(10, size=SPAN - 1))
        draw_shape(rng, draw, color, shape, "", row, column)
        marks.append(Mark(row, column, color, shape))
        for k, digit in enumerate(digits, 1):
            draw_digit(rng, draw, digit, row, column + k)
            marks.append(Mark(row, column + k, color, shape, digit))
        items.append(Item(color, shape, digits, row, column))
    return Picture(noisy(rng, image), "ledger", tuple(items), tuple(marks))
