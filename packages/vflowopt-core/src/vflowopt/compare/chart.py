"""Points with error bars, shares in percent over shares or numbers: the plots of a comparison, drawn with Pillow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image, ImageDraw

from vflowopt.picture.blocks import FAINT, INK, PAPER, font
from vflowopt.picture.paint import BLUE, LATER, ORANGE, Color

SCALE = 2
"""Drawn this much larger and then reduced, which smooths edges."""

PANEL, LEFT, RIGHT, TOP, BOTTOM, LEGEND_ROW = (620, 400), 76, 20, 44, 62, 26
COLORS: tuple[Color, ...] = (INK, BLUE, ORANGE, LATER[0], LATER[3], LATER[1], (86, 180, 233), (120, 94, 40))
"""After Okabe and Ito, which colour-blind readers can tell apart; shapes differ besides."""
GRID: Color = (228, 228, 232)
SHAPES = ("circle", "square", "triangle", "diamond", "cross")


@dataclass(frozen=True)
class Point:
    """A measurement: ``x``, a share ``y``, and the interval of ``y``."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """Points of one name, joined by lines."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Axes:
    """One plot.

    Attributes:
        title: what is plotted.
        x_label: of shares in percent, or of numbers.
        y_label: of shares in percent.
        series: what is drawn.
        spread: draw points of equal ``x`` beside each other, so that their intervals can be told apart.
        numbers: ``x`` are numbers.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    spread: bool = False
    numbers: bool = False


@dataclass(frozen=True)
class Style:
    """How a series is drawn."""

    color: Color
    shape: str


def draw(plots: Sequence[Axes]) -> Image.Image:
    """Plots two to a row, and one legend for all of them below."""
    names = list(dict.fromkeys(series.name for axes in plots for series in axes.series))
    styles = {
        name: Style(COLORS[index % len(COLORS)], SHAPES[(index + index // len(COLORS)) % len(SHAPES)])
        for index, name in enumerate(names)
    }
    columns, rows = min(2, max(1, len(plots))), max(1, -(-len(plots) // 2))
    width, height = PANEL[0] * columns, PANEL[1] * rows
    longest = max((ImageDraw.Draw(Image.new("L", (1, 1))).textlength(name, font(14)) for name in names), default=0)
    column = min(max(160, round(longest) + 50), width - LEFT)
    per_row = max(1, (width - LEFT) // column)
    legend = LEGEND_ROW * -(-len(names) // per_row) + 16
    canvas = Image.new("RGB", (width * SCALE, (height + legend) * SCALE), PAPER)
    for index, axes in enumerate(plots):
        _Plot(canvas, (index % 2 * PANEL[0], index // 2 * PANEL[1]), axes).draw(styles)
    pen = ImageDraw.Draw(canvas)
    for index, (name, style) in enumerate(styles.items()):
        x, y = LEFT + index % per_row * column, height + index // per_row * LEGEND_ROW + 10
        _marker(pen, (x * SCALE, y * SCALE), style)
        pen.text(((x + 14) * SCALE, y * SCALE), name, INK, font(14 * SCALE), anchor="lm")
    return canvas.resize((width, height + legend), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class _Plot:
    canvas: Image.Image
    corner: tuple[int, int]
    axes: Axes

    @cached_property
    def pen(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.canvas)

    def draw(self, styles: dict[str, Style]) -> None:
        """Axes first, points on top."""
        points = [point for series in self.axes.series for point in series.points]
        horizontal = ticks(0.0, max([1.0, *(point.x for point in points)]))
        vertical = ticks(min([1.0, *(point.low for point in points)]), max([0.0, *(point.high for point in points)]))
        self._frame(horizontal, vertical)
        x_range, y_range = (horizontal[0], horizontal[-1]), (vertical[0], vertical[-1])
        for series in self.axes.series:
            style, places = styles[series.name], []
            for point in sorted(series.points, key=lambda point: point.x):
                x, y = self._place(point.x, point.y, x_range, y_range)
                x += self._aside(series, point) * SCALE
                ends = [(x, self._place(point.x, value, x_range, y_range)[1]) for value in (point.low, point.high)]
                self.pen.line(ends, fill=_pale(style.color), width=2 * SCALE)
                places.append((x, y))
            if len(places) > 1:
                self.pen.line(places, fill=style.color, width=SCALE)
            for place in places:
                _marker(self.pen, place, style)

    def _aside(self, series: Series, point: Point) -> float:
        """By how many pixels a point is drawn beside its place."""
        if not self.axes.spread:
            return 0.0
        near = [one for one in self.axes.series if any(abs(other.x - point.x) < 0.005 for other in one.points)]
        return min(7, 28 / len(near)) * (near.index(series) - (len(near) - 1) / 2)

    def _frame(self, horizontal: Sequence[float], vertical: Sequence[float]) -> None:
        pen, small = self.pen, font(13 * SCALE)
        x_range, y_range = (horizontal[0], horizontal[-1]), (vertical[0], vertical[-1])
        for value in horizontal:
            x, low = self._place(value, vertical[0], x_range, y_range)
            pen.line([(x, low), (x, self._place(value, vertical[-1], x_range, y_range)[1])], fill=GRID, width=SCALE)
            tick = f"{value:g}" if self.axes.numbers else _percent(value)
            pen.text((x, low + 6 * SCALE), tick, FAINT, small, anchor="mt")
        for value in vertical:
            left, y = self._place(horizontal[0], value, x_range, y_range)
            pen.line([(left, y), (self._place(horizontal[-1], value, x_range, y_range)[0], y)], fill=GRID, width=SCALE)
            pen.text((left - 8 * SCALE, y), _percent(value), FAINT, small, anchor="rm")
        left, bottom = self._place(horizontal[0], vertical[0], x_range, y_range)
        right, top = self._place(horizontal[-1], vertical[-1], x_range, y_range)
        pen.line([(left, top), (left, bottom), (right, bottom)], fill=INK, width=SCALE)
        title = f"{self.axes.title}: {self.axes.y_label} against {self.axes.x_label}"
        shown = title if len(title) <= 78 else title[:75] + "..."
        pen.text((left, top - 26 * SCALE), shown, INK, font(15 * SCALE))
        pen.text(((left + right) / 2, bottom + 28 * SCALE), self.axes.x_label, INK, font(14 * SCALE), anchor="mt")
        self._sideways(self.axes.y_label, (self.corner[0] + 8) * SCALE, round((top + bottom) / 2))

    def _sideways(self, text: str, x: int, middle: int) -> None:
        width = round(self.pen.textlength(text, font(14 * SCALE))) + 2 * SCALE
        label = Image.new("RGB", (width, 20 * SCALE), PAPER)
        ImageDraw.Draw(label).text((0, 0), text, INK, font(14 * SCALE))
        turned = label.rotate(90, expand=True)
        self.canvas.paste(turned, (x, middle - width // 2))

    def _place(
        self, x: float, y: float, x_range: tuple[float, float], y_range: tuple[float, float]
    ) -> tuple[float, float]:
        across = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (y - y_range[0]) / (y_range[1] - y_range[0])
        left, top = self.corner[0] + LEFT, self.corner[1] + TOP
        width, height = PANEL[0] - LEFT - RIGHT, PANEL[1] - TOP - BOTTOM
        return (left + across * width) * SCALE, (top + (1 - up) * height) * SCALE


def ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose a range of shares, at most eight; always more than one."""
    high = max(high, low + 0.01)
    step = next(step for step in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, *range(1, 1000)) if (high - low) / step <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 6) for index in range(first, last + 1)]


def _marker(pen: ImageDraw.ImageDraw, place: tuple[float, float], style: Style) -> None:
    (x, y), r = place, 5 * SCALE
    if style.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=style.color)
    elif style.shape == "square":
        pen.rectangle((x - r + 1, y - r + 1, x + r - 1, y + r - 1), fill=style.color)
    elif style.shape == "cross":
        for slope in (-1, 1):
            pen.line([(x - r, y - slope * r), (x + r, y + slope * r)], fill=style.color, width=2 * SCALE)
    else:
        corners = [(x, y - r), (x + r, y + r), (x - r, y + r)]
        diamond = [(x, y - r), (x + r, y), (x, y + r), (x - r, y)]
        pen.polygon(corners if style.shape == "triangle" else diamond, fill=style.color)


def _pale(color: Color) -> Color:
    red, green, blue = ((3 * 255 + 2 * channel) // 5 for channel in color)
    return red, green, blue


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
