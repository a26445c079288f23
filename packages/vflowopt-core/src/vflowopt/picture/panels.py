"""One image: for each of its token grids, importance beside fates, in the proportions of the original."""

from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

from vflowopt.picture.blocks import FAINT, GAP, INK, PAPER, draw_scale, font
from vflowopt.picture.fates import token_fates
from vflowopt.picture.paint import Cells, paint_fates, paint_importance, to_picture
from vflowopt.plans.plan import PruningPlan

TALLEST, WIDEST = 440, 640
MAX_GRIDS = 8  # of an image are drawn
TOP = 62


def image_rows(plan: PruningPlan, image: Image.Image, name: str) -> Iterator[Image.Image]:
    """A row of two panels per token grid; every grid spans the whole image."""
    found = grids(plan)
    for number, grid in enumerate(found[:MAX_GRIDS], 1):
        label = ", ".join(part for part in (name, f"grid {number}" if len(found) > 1 else "") if part)
        heat, fates, cells = panels(plan, grid, image, (WIDEST, TALLEST))
        canvas = Image.new("RGB", (heat.width + GAP + fates.width, TOP + heat.height), PAPER)
        draw = ImageDraw.Draw(canvas)
        text = f"{cells.rows} x {cells.columns} tokens over the image"
        draw.text((0, 0), f"{label}: {text}" if label else text, INK, font(19))
        draw_scale(canvas, (0, 32))
        draw.text((heat.width + GAP, 32), "what becomes of it", FAINT, font(16))
        canvas.paste(heat, (0, TOP))
        canvas.paste(fates, (heat.width + GAP, TOP))
        yield canvas


def grids(plan: PruningPlan) -> list[int]:
    """The token grids of a unit, in order."""
    found: list[int] = np.unique(plan.position[~plan.structural, 0]).tolist()
    return found


def panels(
    plan: PruningPlan, grid: int, image: Image.Image, room: tuple[int, int]
) -> tuple[Image.Image, Image.Image, Cells]:
    """Importance and fates of one grid over an image that is fitted into (width, height) pixels, and its cells."""
    scale = min(room[0] / image.width, room[1] / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    enlarge = Image.Resampling.NEAREST if scale > 3 else Image.Resampling.LANCZOS
    pixels = np.asarray(image.convert("RGB").resize(size, enlarge), dtype=np.float64)
    cells = Cells.of(plan, grid, size)
    heat, fates = paint_importance(plan, cells, pixels), paint_fates(token_fates(plan), cells, pixels)
    return to_picture(heat), to_picture(fates), cells
