"""Discrepancies per decoder layer as curves: mean, spread over samples, and where each strategy prunes."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from vflowopt.benchmark.flow import MEASURES, TOKENS, Flow, Measure, StrategyFlow, Tokens
from vflowopt.figures import percent
from vflowopt.picture.blocks import FAINT, INK, PAPER, WIDTH, font, heading, stack
from vflowopt.picture.paint import BLUE, LATER, ORANGE, Color

COLORS: tuple[Color, ...] = (BLUE, ORANGE, LATER[3], LATER[1], LATER[0], (86, 180, 233), (0, 0, 0))
"""Okabe and Ito's, without the yellow, which is too light for a line."""
LEFT, TOP, FLOOR, HEIGHT = 96, 34, 58, 354
FINE = 2  # drawn larger and reduced, so that lines are smooth


def draw_flow(flow: Flow, *, measure: Measure = "cosine", title: str = "", subtitle: str = "") -> Image.Image:
    """A legend and two charts: all text tokens, and the last token.

    Args:
        flow: what to draw.
        measure: which discrepancy.
        title: drawn on top, for example the model.
        subtitle: drawn below it.
    """
    blocks = [block for block in [heading(title, subtitle)] if block]
    blocks.append(_legend(flow.strategies))
    blocks.extend(_chart(flow, tokens, measure) for tokens in TOKENS)
    return stack(blocks)


def _legend(strategies: Sequence[StrategyFlow]) -> Image.Image:
    canvas = Image.new("RGB", (WIDTH, 28 * len(strategies) + 24), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, strategy in enumerate(strategies):
        y = 28 * number
        draw.line((0, y + 11, 44, y + 11), COLORS[number % len(COLORS)], 4)
        name = strategy.name if len(strategy.name) <= 60 else f"...{strategy.name[-57:]}"
        layers = ", ".join(map(str, strategy.boundaries))
        text = f"{name}: {percent(strategy.retention)} retained on average, pruned before layer {layers}"
        draw.text((58, y), text, INK, font(17))
    note = "After each decoder layer. Lines: mean over samples; bands: one standard deviation; dashed: a stage begins."
    draw.text((0, canvas.height - 20), note, FAINT, font(15))
    return canvas


def _chart(flow: Flow, tokens: Tokens, measure: Measure) -> Image.Image:
    curves = [(each.mean(tokens, measure), each.spread(tokens, measure)) for each in flow.strategies]
    step, top = scale(max(float((mean + spread).max()) for mean, spread in curves))
    canvas = Image.new("RGB", (FINE * WIDTH, FINE * HEIGHT), PAPER)
    draw = ImageDraw.Draw(canvas, "RGBA")

    def x(layer: float) -> float:
        return FINE * (LEFT + (layer + 0.5) * (WIDTH - LEFT) / flow.num_layers)

    def y(value: float) -> float:
        return FINE * (HEIGHT - FLOOR - (HEIGHT - FLOOR - TOP) * value / top)

    draw.text((0, 0), f"{MEASURES[measure]}, {TOKENS[tokens]}", INK, font(FINE * 17))
    for tick in range(round(top / step) + 1):
        height = y(tick * step)
        draw.line((x(-0.5), height, x(flow.num_layers - 0.5), height), (226, 226, 230), FINE)
        draw.text((FINE * (LEFT - 8), height), f"{tick * step:.4g}", FAINT, font(FINE * 14), anchor="rm")
    every = max(1, flow.num_layers // 16)
    for layer in range(0, flow.num_layers, every):
        draw.text((x(layer), y(0) + FINE * 6), str(layer), FAINT, font(FINE * 14), anchor="mt")
    middle = ((x(-0.5) + x(flow.num_layers - 0.5)) / 2, FINE * (HEIGHT - 4))
    draw.text(middle, "decoder layer", FAINT, font(FINE * 14), anchor="mb")
    for number, strategy in enumerate(flow.strategies):
        for boundary in strategy.boundaries:
            # Strategies that prune at the same layer stand side by side.
            place = x(boundary - 0.5) + FINE * 3 * number
            _dashed(draw, place, y(top), y(0), COLORS[number % len(COLORS)])
    for number, (mean, spread) in enumerate(curves):
        color = COLORS[number % len(COLORS)]
        lower, upper = np.maximum(mean - spread, 0), mean + spread
        band = [(x(i), y(value)) for i, value in enumerate(upper)]
        band += [(x(i), y(value)) for i, value in reversed(list(enumerate(lower)))]
        draw.polygon(band, (*color, 40))
    for number, (mean, _) in enumerate(curves):
        _line(draw, [(x(i), y(value)) for i, value in enumerate(mean)], COLORS[number % len(COLORS)])
    return canvas.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _line(draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], color: Color) -> None:
    draw.line(points, color, 3 * FINE, joint="curve")
    for x, y in points:
        draw.ellipse((x - 3 * FINE, y - 3 * FINE, x + 3 * FINE, y + 3 * FINE), color)


def _dashed(draw: ImageDraw.ImageDraw, x: float, top: float, bottom: float, color: Color) -> None:
    for y in range(int(top), int(bottom), 10 * FINE):
        draw.line((x, y, x, min(y + 5 * FINE, bottom)), (*color, 150), FINE)


def scale(largest: float) -> tuple[float, float]:
    """Distance of ticks, a round number, and the top of an axis from 0 that shows a largest value."""
    if largest <= 0:
        return 1.0, 1.0
    rough = largest / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    return step, step * math.ceil(largest / step)
