"""Accuracies of a study's rows below each other, with intervals: a forest plot, drawn with Pillow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from PIL import Image, ImageDraw

from vflowopt.ablation.table import Table
from vflowopt.compare import Row
from vflowopt.compare.chart import COLORS, GRID, SCALE, ticks
from vflowopt.figures import percent
from vflowopt.picture.blocks import FAINT, INK, PAPER, font
from vflowopt.picture.paint import Color

AXIS, LINE, GAP = 420, 26, 16
"""Width of the axis, height of a row, and what is left free around them; in pixels."""
DOT, SEED = 5, 2
"""Radius of a mean and of the seeds that it is of."""


def forest(tables: Sequence[Table]) -> Image.Image:
    """One plot per table, below each other; rows by budget, and a line where the budget's first row is."""
    shown = [_Plot(table, [row for row in table.rows if not row.cannot]) for table in tables]
    pen = ImageDraw.Draw(Image.new("L", (1, 1)))
    names = [row.method for plot in shown for row in plot.rows]
    left = round(max((pen.textlength(name, font(14)) for name in names), default=0)) + 2 * GAP
    heights = [plot.height for plot in shown]
    canvas = Image.new("RGB", ((left + AXIS + 3 * GAP) * SCALE, max(1, sum(heights)) * SCALE), PAPER)
    for number, plot in enumerate(shown):
        plot.draw(ImageDraw.Draw(canvas), left, sum(heights[:number]))
    return canvas.resize((canvas.width // SCALE, max(1, sum(heights))), Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class _Plot:
    table: Table
    rows: Sequence[Row]

    @property
    def budgets(self) -> list[float]:
        return list(dict.fromkeys(row.budget for row in self.rows))

    @property
    def height(self) -> int:
        return (len(self.rows) + len(self.budgets) + 3) * LINE

    def draw(self, pen: ImageDraw.ImageDraw, left: int, top: int) -> None:
        bounds = [bound for row in self.rows for bound in row.interval]
        scale = ticks(min(bounds, default=0.0), max(bounds, default=1.0))
        floor = top + self.height - 2 * LINE
        title = f"{self.table.model}: accuracy"
        pen.text((GAP * SCALE, (top + GAP) * SCALE), title, INK, font(15 * SCALE), anchor="lm")
        for value in scale:
            x = _across(value, scale, left)
            pen.line([(x, (top + LINE) * SCALE), (x, floor * SCALE)], fill=GRID, width=SCALE)
            pen.text((x, (floor + 6) * SCALE), f"{100 * value:.3g} %", FAINT, font(13 * SCALE), anchor="mt")
        y = top + LINE
        for number, budget in enumerate(self.budgets):
            own = [row for row in self.rows if row.budget == budget]
            color = COLORS[number % len(COLORS)]
            pen.text((GAP * SCALE, (y + LINE / 2) * SCALE), percent(budget), FAINT, font(13 * SCALE), anchor="lm")
            if own[0].method == self.table.study.lines[0].name:
                base, end = _across(own[0].accuracy, scale, left), y + (len(own) + 1) * LINE
                pen.line([(base, (y + LINE) * SCALE), (base, end * SCALE)], fill=FAINT, width=SCALE)
            for row in own:
                y += LINE
                _row(pen, row, partial(_across, scale=scale, left=left), y + LINE / 2, color)
            y += LINE


def _row(pen: ImageDraw.ImageDraw, row: Row, across: Callable[[float], float], y: float, color: Color) -> None:
    """Name, interval, a small dot per seed, and the mean."""
    low, high = row.interval
    pen.text((GAP * SCALE, y * SCALE), row.method, INK, font(14 * SCALE), anchor="lm")
    pen.line([(across(low), y * SCALE), (across(high), y * SCALE)], fill=FAINT, width=2 * SCALE)
    for result in row.able if len(row.able) > 1 else ():
        _dot(pen, across(result.accuracy), (y + DOT + SEED) * SCALE, SEED, color)
    _dot(pen, across(row.accuracy), y * SCALE, DOT, color)


def _across(value: float, scale: Sequence[float], left: int) -> float:
    return (left + GAP + (value - scale[0]) / (scale[-1] - scale[0]) * AXIS) * SCALE


def _dot(pen: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: Color) -> None:
    r = radius * SCALE
    pen.ellipse((x - r, y - r, x + r, y + r), fill=color)
