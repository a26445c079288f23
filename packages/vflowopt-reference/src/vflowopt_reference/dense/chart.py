"""Bar charts: an axis whose digits do not start at a fixed one, and four to eight bars of different colours."""

from __future__ import annotations

import numpy as np
from PIL import ImageDraw

from ..geometry import Canvas
from ..vocabulary import COLORS
from .ink import draw_digit, noisy, paper, shade
from .picture import CELL, Item, Mark, Picture, cells, centre


def chart(rng: np.random.Generator, canvas: Canvas) -> Picture:
    """A bar's value is the digit of the axis in the row where the bar ends."""
    rows, columns = cells(canvas)
    image = paper(rng, canvas)
    draw = ImageDraw.Draw(image)
    ticks = min(rows, 9)
    lowest = int(rng.integers(1, 10 - ticks + 1))
    rule = tuple(int(v) for v in np.asarray(image.getpixel((0, 0))) - rng.integers(15, 45))
    marks = list[Mark]()
    for k in range(ticks):
        row = rows - 1 - k
        y = centre(row, 0)[1]
        draw.line([(CELL, y), (canvas[1], y)], fill=rule)
        draw_digit(rng, draw, str(lowest + k), row, 0)
        marks.append(Mark(row, 0, digit=str(lowest + k)))
    count = int(rng.integers(4, min(len(COLORS), columns - 1) + 1))
    colors = [str(c) for c in rng.permutation(list(COLORS))[:count]]
    places = sorted(1 + int(c) for c in rng.permutation(columns - 1)[:count])
    items = list[Item]()
    for color, column in zip(colors, places, strict=True):
        k = int(rng.integers(ticks))
        row, half = rows - 1 - k, rng.uniform(4.5, 6.5)
        x, y = centre(row, column)
        top = y + rng.uniform(-1, 1)
        draw.rectangle([x - half, top, x + half, canvas[0]], fill=shade(rng, color))
        items.append(Item(color, "", str(lowest + k), row, column))
        marks.append(Mark(row, column, color, digit=str(lowest + k)))
        marks += [Mark(below, column, color, unasked=True) for below in range(row + 1, rows)]
    return Picture(noisy(rng, image), "chart", tuple(items), tuple(marks))
