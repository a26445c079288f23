"""Parts of every picture: heading, legend, bars of tokens per layer; and how parts are put below each other."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vflowopt.arrays import HostInts
from vflowopt.components.schedule import achieved_retention
from vflowopt.figures import percent
from vflowopt.picture.fates import DROPPED, KEPT, MERGED, RECYCLED, token_fates
from vflowopt.picture.paint import BLUE, VIRIDIS, Cells, Color, paint_fates, to_picture
from vflowopt.plans.plan import PruningPlan

INK: Color = (32, 32, 36)
FAINT: Color = (110, 110, 118)
PAPER: Color = (255, 255, 255)
MARGIN, GAP, WIDTH = 36, 28, 1100


def heading(title: str, subtitle: str) -> Image.Image | None:
    """Title and subtitle, each on one line; ``None`` without either."""
    if not title and not subtitle:
        return None
    canvas = Image.new("RGB", (WIDTH, 66 if title and subtitle else 38), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((0, 0), _shortened(title, 84), INK, font(24))
    if subtitle:
        draw.text((0, 36 if title else 0), _shortened(subtitle, 110), FAINT, font(18))
    return canvas


def legend(plans: Sequence[PruningPlan]) -> Image.Image:
    """A swatch, a name and a number of tokens for everything that occurs in an image or video."""
    every = np.concatenate([token_fates(plan) for plan in plans])
    apart = np.concatenate([plan.structural for plan in plans])
    fate, separator_fate = every[~apart], every[apart]
    shown = [(value, text, count) for value, text in _names(plans[0]) if (count := int((fate == value).sum()))]
    separators = len(separator_fate)
    canvas = Image.new("RGB", (WIDTH, 34 * -(-len(shown) // 2) + (30 if separators else 0)), PAPER)
    draw = ImageDraw.Draw(canvas)
    sample = np.full((24, 36, 3), 0.0) + np.linspace(150, 235, 36)[None, :, None] * np.array([1.0, 0.86, 0.62])
    for number, (value, text, count) in enumerate(shown):
        x, y = (number % 2) * WIDTH // 2, (number // 2) * 34
        swatch = paint_fates(np.array([value]), Cells(np.zeros((24, 36), dtype=np.int64), 1, 1), sample)
        canvas.paste(to_picture(swatch), (x, y))
        draw.rectangle((x, y, x + 35, y + 23), outline=FAINT)
        draw.text((x + 48, y + 1), f"{text}: {count}", INK, font(17))
    if separators:
        what = "1 separator" if separators == 1 else f"{separators} separators"
        left = int(((separator_fate == KEPT) | (separator_fate == RECYCLED)).sum())
        note = f"Beside these: {what} without a place in the image, {left} kept to the end."
        draw.text((0, canvas.height - 24), note, FAINT, font(15))
    return canvas


def _names(plan: PruningPlan) -> list[tuple[int, str]]:
    where = ["before the LLM" if boundary == 0 else f"before layer {boundary}" for boundary in plan.boundaries]
    return [
        (KEPT, "kept to the end"),
        (RECYCLED, "kept, and carries merged neighbours"),
        (MERGED, "merged into another token"),
        *((DROPPED + stage, f"dropped {place}") for stage, place in enumerate(where)),
    ]


def bars(plans: Sequence[PruningPlan], num_layers: int) -> Image.Image:
    """Visual tokens of an image or video that each decoder layer sees."""
    boundaries, total = plans[0].boundaries, sum(plan.tokens for plan in plans)
    counts: HostInts = np.sum([plan.counts for plan in plans], axis=0)
    height, top = 96, 34
    canvas = Image.new("RGB", (WIDTH, height + top + 30), PAPER)
    draw = ImageDraw.Draw(canvas)
    retention = achieved_retention(counts.tolist(), total, boundaries, num_layers)
    text = f"visual tokens per decoder layer: {percent(retention)} of {total} on average"
    draw.text((0, 0), text, INK, font(17))
    step = WIDTH / num_layers
    for layer in range(num_layers):
        started = [index for index, boundary in enumerate(boundaries) if boundary <= layer]
        count = int(counts[started[-1]]) if started else total
        left, right = round(layer * step), round((layer + 1) * step) - 3
        draw.rectangle((left, top, right, top + height), fill=(236, 236, 240))
        bar = max(2, round(height * count / total))
        draw.rectangle((left, top + height - bar, right, top + height), fill=BLUE)
        if layer == 0 or layer in boundaries:
            above = top + height - bar - 22 if bar < height - 22 else top + 4
            draw.text((left + 4, above), str(count), INK if bar < height - 22 else PAPER, font(16))
        draw.text((left + 2, top + height + 5), str(layer), FAINT, font(14))
    return canvas


def draw_scale(canvas: Image.Image, place: tuple[int, int]) -> None:
    """What the colours of importance mean, 360 pixels wide and 20 high."""
    draw, (x, y) = ImageDraw.Draw(canvas), place
    draw.text(place, "how important each token is: least", FAINT, font(16))
    for index, color in enumerate(VIRIDIS.astype(int).tolist()):
        left = x + 264 + 10 * index
        canvas.paste(tuple(color), (left, y + 4, left + 10, y + 18))
    draw.text((x + 362, y), "most", FAINT, font(16))


def stack(blocks: Sequence[Image.Image]) -> Image.Image:
    """Blocks below each other on paper with a margin."""
    width = max(block.width for block in blocks) + 2 * MARGIN
    height = sum(block.height + GAP for block in blocks) - GAP + 2 * MARGIN
    canvas = Image.new("RGB", (width, height), PAPER)
    y = MARGIN
    for block in blocks:
        canvas.paste(block, (MARGIN, y))
        y += block.height + GAP
    return canvas


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which is the same on every machine."""
    return ImageFont.load_default(size)


def _shortened(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."
