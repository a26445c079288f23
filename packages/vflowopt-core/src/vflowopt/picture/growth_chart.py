"""Growth as a picture: time over size, both in powers."""

import math

from PIL import Image, ImageDraw

from vflowopt.benchmark.growth import Growth, GrowthSeries
from vflowopt.picture.blocks import FAINT, INK, PAPER, WIDTH, font, heading, stack
from vflowopt.picture.paint import BLUE, LATER, ORANGE, Color

FINE = 2
COLORS: tuple[Color, ...] = (BLUE, ORANGE, LATER[3], LATER[1])
GRID: Color = (226, 226, 230)
LEFT, TOP, FLOOR, RIGHT, HEIGHT = 90, 30, 40, 30, 460


def draw_growth(grown: Growth) -> Image.Image:
    """Median times with quartiles; what was not measured has no point."""
    title = heading("How planning and attention capture grow with tokens", grown.device)
    return stack(list(filter(None, (title, _legend(grown), _lines(grown)))))


def _legend(grown: Growth) -> Image.Image:
    canvas = Image.new("RGB", (WIDTH, 28 * len(grown.series)), PAPER)
    pen = ImageDraw.Draw(canvas)
    for number, series in enumerate(grown.series):
        exponent, tail = series.exponent(), series.exponent(last=3)
        law = "" if exponent is None or tail is None else f": tokens^{exponent:.2f}, the three largest ^{tail:.2f}"
        missing = sum(point.time is None for point in series.points)
        law += f"; {missing} sizes not measured" if missing else ""
        pen.line((0, 28 * number + 11, 44, 28 * number + 11), COLORS[number % len(COLORS)], 4)
        pen.text((58, 28 * number), series.name + law, INK, font(17))
    return canvas


def _lines(grown: Growth) -> Image.Image | None:
    measured = [point for series in grown.series for point in series.points if point.time]
    if not measured:
        return None
    sizes = [math.log2(point.tokens) for point in measured]
    walls = [point.time.wall for point in measured if point.time]
    times = [math.log10(value) for wall in walls for value in (wall.low, wall.high)]
    left, right = min(sizes), max(max(sizes), min(sizes) + 1)
    low, high = math.floor(min(times)), max(math.ceil(max(times)), math.floor(min(times)) + 1)

    def place(size: float, seconds: float) -> tuple[float, float]:
        across, up = (size - left) / (right - left), (seconds - low) / (high - low)
        return FINE * (LEFT + across * (WIDTH - LEFT - RIGHT)), FINE * (HEIGHT - FLOOR - up * (HEIGHT - FLOOR - TOP))

    canvas = Image.new("RGB", (FINE * WIDTH, FINE * HEIGHT), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((0, 0), "seconds (median, quartiles) over tokens", INK, font(FINE * 17))
    for power in range(low, high + 1):
        pen.line((*place(left, power), *place(right, power)), GRID, FINE)
        x, y = place(left, power)
        pen.text((x - 8 * FINE, y), f"{10.0**power:g}", FAINT, font(FINE * 14), anchor="rm")
    for power in range(math.ceil(left), math.floor(right) + 1):
        x, y = place(power, low)
        pen.text((x, y + 6 * FINE), f"{2**power:,}", FAINT, font(FINE * 14), anchor="mt")
    for number, series in enumerate(grown.series):
        color = COLORS[number % len(COLORS)]
        points = [_logarithms(series, index) for index, point in enumerate(series.points) if point.time]
        pen.line([place(size, middle) for size, middle, _, _ in points], color, 3 * FINE)
        for size, middle, lowest, highest in points:
            pen.line((*place(size, lowest), *place(size, highest)), INK, FINE)
            x, y = place(size, middle)
            pen.ellipse((x - 4 * FINE, y - 4 * FINE, x + 4 * FINE, y + 4 * FINE), fill=color)
    return canvas.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _logarithms(series: GrowthSeries, index: int) -> tuple[float, float, float, float]:
    """Of size, median and quartiles."""
    point = series.points[index]
    assert point.time is not None
    wall = point.time.wall
    return math.log2(point.tokens), math.log10(wall.median), math.log10(wall.low), math.log10(wall.high)
