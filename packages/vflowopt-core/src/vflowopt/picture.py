"""A pruning plan drawn over the pixels: how important each visual token is, and what becomes of it.

Every token grid (base crop, high-resolution grid, each frame of a video) spans its whole image, so each grid becomes a
row of two panels, in the proportions of the original. Colours are from Okabe and Ito's palette and viridis, which
colour-blind readers can tell apart; fates also differ in brightness and pattern.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vflowopt.arrays import HostInts, to_numpy
from vflowopt.errors import InputError
from vflowopt.plan import PruningPlan

Pixels = npt.NDArray[np.float64]
Color = tuple[int, int, int]

INK: Color = (32, 32, 36)
FAINT: Color = (110, 110, 118)
PAPER: Color = (255, 255, 255)
BLUE: Color = (0, 114, 178)
ORANGE: Color = (230, 159, 0)
LATER: tuple[Color, ...] = ((213, 94, 0), (204, 121, 167), (240, 228, 66), (0, 158, 115))
"""Tints of tokens dropped at the second, third, ... stage."""
VIRIDIS: Pixels = np.array(
    [(68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129), (92, 200, 99),
     (170, 220, 50), (253, 231, 37)], dtype=np.float64
)  # fmt: skip

MARGIN, GAP, PANEL, WIDEST, WIDTH = 36, 28, 440, 640, 1100
MAX_FRAMES = 8  # of a video are drawn

KEPT, RECYCLED, MERGED, DROPPED = 0, 1, 2, 3  # DROPPED + stage


def token_fates(plan: PruningPlan) -> HostInts:
    """What becomes of each token, int64 [N].

    0: kept to the end; 1: kept to the end, and carries recycled neighbours; 2: merged into one of those (or into one
    that a later stage drops); 3 + s: dropped at stage s.
    """
    anchor, tokens = to_numpy(plan.anchor), np.arange(plan.tokens)
    fate = np.full(plan.tokens, KEPT, dtype=np.int64)
    fate[np.unique(anchor[(anchor >= 0) & (anchor != tokens)])] = RECYCLED
    for stage in reversed(range(len(plan.kept))):
        gone = np.ones(plan.tokens, dtype=bool)
        gone[to_numpy(plan.kept[stage])] = False
        fate[gone] = DROPPED + stage
    fate[(anchor >= 0) & (anchor != tokens)] = MERGED
    return fate


def draw_plans(
    plans: Sequence[PruningPlan],
    images: Sequence[Image.Image],
    *,
    num_layers: int,
    title: str = "",
    subtitle: str = "",
) -> Image.Image:
    """Draw plans over their images.

    Args:
        plans: one per image; or one plan of a video, whose frames are ``images``.
        images: the original images, of any size.
        num_layers: decoder layers, for the bars of tokens per layer.
        title: drawn on top, for example the question.
        subtitle: drawn below it, for example the answer.

    Raises:
        InputError: the numbers of plans and images do not go together.
    """
    if not plans or (len(plans) != len(images) and len(plans) != 1):
        raise InputError(f"{len(plans)} plans cannot be drawn over {len(images)} images")
    blocks: list[Image.Image] = []
    for index, plan in enumerate(plans):
        frames = list(images) if len(plans) == 1 else [images[index]]
        grids = np.unique(plan.position[~plan.structural, 0])
        for grid in grids[:MAX_FRAMES]:
            frame = frames[min(int(grid), len(frames) - 1)]
            blocks.append(_row(plan, int(grid), frame.convert("RGB"), several=len(grids) > 1))
        blocks.append(_legend(plan))
        blocks.append(_bars(plan, num_layers))
    heading = _heading(title, subtitle)
    return _stack([*([heading] if heading else []), *blocks])


@dataclass(frozen=True)
class Cells:
    """A grid laid over a panel: for each pixel the token it belongs to."""

    token: HostInts  # [height, width], index into the plan's tokens
    rows: int
    columns: int

    @classmethod
    def of(cls, plan: PruningPlan, grid: int, size: tuple[int, int]) -> "Cells":
        """Spread the grid over a panel of (width, height) pixels."""
        members = np.flatnonzero(plan.position[:, 0] == grid)
        place = plan.position[members, 1:]
        rows, columns = (int(extent) + 1 for extent in place.max(axis=0))
        table = np.full((rows, columns), members[0], dtype=np.int64)
        table[place[:, 0], place[:, 1]] = members
        width, height = size
        row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
        return cls(table[row[:, None], column[None, :]], rows, columns)

    def borders(self, values: HostInts) -> npt.NDArray[np.bool_]:
        """Pixels [height, width] at which per-token ``values`` change to the right or below."""
        own = values[self.token]
        edge = np.zeros(own.shape, dtype=bool)
        edge[:-1] |= own[:-1] != own[1:]
        edge[:, :-1] |= own[:, :-1] != own[:, 1:]
        return edge

    def inset(self, margin: int) -> npt.NDArray[np.bool_]:
        """Pixels nearer than ``margin`` to the border of their own cell."""
        near = np.zeros(self.token.shape, dtype=bool)
        for shift in range(1, margin + 1):
            near[:-shift] |= self.token[:-shift] != self.token[shift:]
            near[shift:] |= self.token[:-shift] != self.token[shift:]
            near[:, :-shift] |= self.token[:, :-shift] != self.token[:, shift:]
            near[:, shift:] |= self.token[:, :-shift] != self.token[:, shift:]
        near[:margin] = near[-margin:] = True
        near[:, :margin] = near[:, -margin:] = True
        return near


def _row(plan: PruningPlan, grid: int, image: Image.Image, *, several: bool) -> Image.Image:
    """Importance beside fates for one grid, with a caption above."""
    scale = min(PANEL / image.height, WIDEST / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    enlarge = Image.Resampling.NEAREST if scale > 3 else Image.Resampling.LANCZOS
    pixels = np.asarray(image.resize(size, enlarge), dtype=np.float64)
    cells = Cells.of(plan, grid, size)
    name = f"grid {grid + 1}: " if several else ""
    top = 62
    canvas = Image.new("RGB", (2 * size[0] + GAP, size[1] + top), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((0, 0), f"{name}{cells.rows} x {cells.columns} tokens over the image", INK, _font(19))
    draw.text((0, 32), "how important each token is: least", FAINT, _font(16))
    _scale(canvas, 264, 36)
    draw.text((264 + 98, 32), "most", FAINT, _font(16))
    draw.text((size[0] + GAP, 32), "what becomes of it", FAINT, _font(16))
    canvas.paste(_picture(_heat(plan, cells, pixels)), (0, top))
    canvas.paste(_picture(paint_fates(token_fates(plan), cells, pixels)), (size[0] + GAP, top))
    return canvas


def _scale(canvas: Image.Image, x: int, y: int) -> None:
    """The colours of importance, from least to most."""
    for index, color in enumerate(VIRIDIS.astype(int).tolist()):
        canvas.paste(tuple(color), (x + 10 * index, y, x + 10 * index + 10, y + 14))


def _heat(plan: PruningPlan, cells: Cells, pixels: Pixels) -> Pixels:
    """Viridis by rank among the unit's tokens over the darkened gray image."""
    importance = to_numpy(plan.importance).astype(np.float64)
    scored = ~plan.structural
    rank = np.zeros(plan.tokens)
    rank[np.flatnonzero(scored)[np.argsort(importance[scored], kind="stable")]] = np.linspace(0, 1, int(scored.sum()))
    place = rank[cells.token] * (len(VIRIDIS) - 1)
    low = np.minimum(place.astype(np.int64), len(VIRIDIS) - 2)
    share = (place - low)[..., None]
    color = VIRIDIS[low] * (1 - share) + VIRIDIS[low + 1] * share
    blended: Pixels = 0.72 * color + 0.28 * _gray(pixels)
    return blended


def paint_fates(fate: HostInts, cells: Cells, pixels: Pixels) -> Pixels:
    """Kept tokens as they are; recycled ones framed; merged ones blue; dropped ones dark or tinted and hatched."""
    own, gray = fate[cells.token], _gray(pixels)
    painted = pixels.copy()
    row, column = np.indices(own.shape)
    merged = own == MERGED
    painted[merged] = (0.3 * gray + 0.5 * np.array(BLUE))[merged]
    for value in np.unique(own[own >= DROPPED]):
        gone, stage = own == value, int(value) - DROPPED
        if stage == 0:
            painted[gone] = (0.22 * gray + 18)[gone]
            continue
        tint = np.array(LATER[(stage - 1) % len(LATER)])
        hatch = ((row + column if stage % 2 else row - column) // 4) % 2 == 0
        painted[gone] = np.where(hatch[..., None], 0.15 * gray + 0.85 * tint, 0.6 * gray + 0.2 * tint)[gone]
    painted[cells.borders(np.arange(len(fate)))] *= 0.82
    painted[cells.inset(max(2, min(own.shape) // 150)) & (own == RECYCLED)] = ORANGE
    return painted


def _legend(plan: PruningPlan) -> Image.Image:
    """A swatch, a name and a number of tokens for everything that occurs."""
    fate, tokens = token_fates(plan), ~plan.structural
    entries = [
        (KEPT, "kept to the end"),
        (RECYCLED, "kept, and carries merged neighbours"),
        (MERGED, "merged into a neighbour before the LLM"),
    ]
    for stage, boundary in enumerate(plan.boundaries):
        where = "before the LLM" if boundary == 0 else f"before layer {boundary}"
        entries.append((DROPPED + stage, f"dropped {where}"))
    shown = [(value, text, int((fate[tokens] == value).sum())) for value, text in entries]
    shown = [entry for entry in shown if entry[2]]
    separators = int(plan.structural.sum())
    canvas = Image.new("RGB", (WIDTH, 34 * -(-len(shown) // 2) + (30 if separators else 0)), PAPER)
    draw = ImageDraw.Draw(canvas)
    sample = np.full((24, 36, 3), 0.0) + np.linspace(150, 235, 36)[None, :, None] * np.array([1.0, 0.86, 0.62])
    for number, (value, text, count) in enumerate(shown):
        x, y = (number % 2) * WIDTH // 2, (number // 2) * 34
        swatch = paint_fates(np.array([value]), Cells(np.zeros((24, 36), dtype=np.int64), 1, 1), sample)
        canvas.paste(_picture(swatch), (x, y))
        draw.rectangle((x, y, x + 35, y + 23), outline=FAINT)
        draw.text((x + 48, y + 1), f"{text}: {count}", INK, _font(17))
    if separators:
        note = f"Beside these, {separators} row separators without a place in the image are always kept."
        draw.text((0, canvas.height - 24), note, FAINT, _font(15))
    return canvas


def _bars(plan: PruningPlan, num_layers: int) -> Image.Image:
    """Visual tokens that each decoder layer sees."""
    width, height, top = WIDTH, 96, 34
    canvas = Image.new("RGB", (width, height + top + 30), PAPER)
    draw = ImageDraw.Draw(canvas)
    retention = plan.achieved_retention(num_layers)
    heading = f"visual tokens per decoder layer: {retention:.1%} of {plan.tokens} on average"
    draw.text((0, 0), heading, INK, _font(17))
    step = width / num_layers
    for layer in range(num_layers):
        started = [index for index, boundary in enumerate(plan.boundaries) if boundary <= layer]
        count = plan.counts[started[-1]] if started else plan.tokens
        left, right = round(layer * step), round((layer + 1) * step) - 3
        draw.rectangle((left, top, right, top + height), fill=(236, 236, 240))
        bar = max(2, round(height * count / plan.tokens))
        draw.rectangle((left, top + height - bar, right, top + height), fill=BLUE)
        if layer == 0 or layer in plan.boundaries:
            above = top + height - bar - 22 if bar < height - 22 else top + 4
            draw.text((left + 4, above), str(count), INK if bar < height - 22 else PAPER, _font(16))
        draw.text((left + 2, top + height + 5), str(layer), FAINT, _font(14))
    return canvas


def _heading(title: str, subtitle: str) -> Image.Image | None:
    if not title and not subtitle:
        return None
    canvas = Image.new("RGB", (WIDTH, 66 if title and subtitle else 38), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((0, 0), _shortened(title, 84), INK, _font(24))
    if subtitle:
        draw.text((0, 36 if title else 0), _shortened(subtitle, 110), FAINT, _font(18))
    return canvas


def _stack(blocks: Sequence[Image.Image]) -> Image.Image:
    width = max(block.width for block in blocks) + 2 * MARGIN
    height = sum(block.height + GAP for block in blocks) - GAP + 2 * MARGIN
    canvas = Image.new("RGB", (width, height), PAPER)
    y = MARGIN
    for block in blocks:
        canvas.paste(block, (MARGIN, y))
        y += block.height + GAP
    return canvas


def _gray(pixels: Pixels) -> Pixels:
    return np.repeat(pixels.mean(axis=-1, keepdims=True), 3, axis=-1)


def _picture(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _shortened(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."
