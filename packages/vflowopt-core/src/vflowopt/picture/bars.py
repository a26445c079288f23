"""Horizontal bars with names on the left and values at their ends, drawn with Pillow."""

from collections.abc import Mapping

from PIL import Image, ImageDraw

from vflowopt.picture.blocks import FAINT, INK, PAPER, WIDTH, font
from vflowopt.picture.curves import scale
from vflowopt.picture.paint import Color

FINE = 2  # drawn larger and reduced, so that edges are smooth
GRID: Color = (226, 226, 230)
LEFT, RIGHT = 210, 110
TITLE, LEGEND = 30, 30


class Bars:
    """A chart of bars from 0 to the right.

    Args:
        title: above everything.
        legend: colours by name.
        height: of the bars' area, in pixels.
        most: largest value.
        unit: of the scale, a format.
    """

    def __init__(self, title: str, legend: Mapping[str, Color], height: int, most: float, unit: str) -> None:
        self.top, self._height, self._most = TITLE + LEGEND, height, max(most, 1e-12)
        self._canvas = Image.new("RGB", (FINE * WIDTH, FINE * (self.top + height + 24)), PAPER)
        self._pen = ImageDraw.Draw(self._canvas)
        self._text(0, 0, title, 17)
        x = 0.0
        for name, color in legend.items():
            self._pen.rectangle([FINE * part for part in (x, TITLE + 5, x + 14, TITLE + 19)], color)
            self._text(x + 20, TITLE + 4, name, 14)
            x += 48 + self._pen.textlength(name, font(FINE * 14)) / FINE
        step, end = scale(self._most)
        self._end = end
        for tick in range(round(end / step) + 1):
            place = self._x(tick * step)
            self._pen.line((place, FINE * self.top, place, FINE * (self.top + height)), GRID, FINE)
            mark = unit.format(tick * step)
            self._pen.text((place, FINE * (self.top + height + 4)), mark, FAINT, font(FINE * 13), anchor="mt")

    def name(self, y: float, text: str) -> None:
        """What the bars at height ``y`` belong to."""
        shown = text if len(text) <= 26 else f"{text[:23]}..."
        self._pen.text((FINE * (LEFT - 10), FINE * (self.top + y)), shown, INK, font(FINE * 15), anchor="rm")

    def bar(self, start: float, end: float, y: float, height: float, color: Color) -> None:
        """A bar from one value to another."""
        top, left = FINE * (self.top + y + 1), self._x(start)
        self._pen.rectangle((left, top, max(left, self._x(end)), top + FINE * (height - 1)), color)

    def whisker(self, low: float, high: float, y: float) -> None:
        """A range."""
        middle = FINE * (self.top + y)
        self._pen.line((self._x(low), middle, self._x(high), middle), INK, FINE)
        for value in (low, high):
            self._pen.line((self._x(value), middle - 3 * FINE, self._x(value), middle + 3 * FINE), INK, FINE)

    def value(self, at: float, y: float, text: str) -> None:
        """A figure to the right of a value."""
        place = self._x(at) + 8 * FINE
        self._pen.text((place, FINE * (self.top + y)), text, INK, font(FINE * 13), anchor="lm")

    def mark(self, at: float, low: float, high: float) -> None:
        """A line across some bars."""
        place = self._x(at)
        self._pen.line((place, FINE * (self.top + low), place, FINE * (self.top + high)), INK, 2 * FINE)

    def reduced(self) -> Image.Image:
        """The finished chart."""
        return self._canvas.resize((WIDTH, self._canvas.height // FINE), Image.Resampling.LANCZOS)

    def _x(self, value: float) -> float:
        return FINE * (LEFT + (WIDTH - LEFT - RIGHT) * value / self._end)

    def _text(self, x: float, y: float, text: str, size: int) -> None:
        self._pen.text((FINE * x, FINE * y), text, INK, font(FINE * size))
