"""One video: a contact sheet of its frames in reading order, each with importance above and fates below."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from vflowopt.files.video import evenly
from vflowopt.picture.blocks import FAINT, INK, PAPER, WIDTH, draw_scale, font
from vflowopt.picture.panels import grids, panels
from vflowopt.plans.plan import PruningPlan

MAX_FRAMES = 16
SPACE, CAPTION, TOP, TALLEST, COLUMNS, LABEL = 14, 24, 66, 300, 4, 90


@dataclass(frozen=True)
class Slice:
    """A token grid of a video.

    Attributes:
        plan: the plan that holds it.
        grid: its view in that plan.
        frame: the first of the frames that it covers.
    """

    plan: PruningPlan
    grid: int
    frame: int


def slices(plans: Sequence[PruningPlan], frames: int) -> list[Slice]:
    """Which token grid shows which frame.

    Grids share the frames evenly, in order: one each; or, where a temporal slice covers several, as many as
    ``ceil(frames / grids)``, the last slice possibly fewer (upstream fills it up by repeating the last frame).

    Args:
        plans: the video's plan; or one plan per frame, for models to which frames are images.
        frames: frames of the video.
    """
    if len(plans) > 1:
        return [Slice(plan, grids(plan)[0], frame) for frame, plan in enumerate(plans)]
    found = grids(plans[0])
    covered = max(1, -(-frames // len(found)))
    return [Slice(plans[0], grid, min(index * covered, frames - 1)) for index, grid in enumerate(found)]


def contact_sheet(plans: Sequence[PruningPlan], frames: Sequence[Image.Image], name: str) -> Image.Image:
    """At most ``MAX_FRAMES`` token grids, evenly chosen, over the frames that they show."""
    found = slices(plans, len(frames))
    chosen = [found[index] for index in evenly(len(found), MAX_FRAMES)]
    least = min(COLUMNS, len(chosen))
    room = (WIDTH - (least - 1) * SPACE) // least, TALLEST
    drawn = [panels(each.plan, each.grid, frames[each.frame], room) for each in chosen]
    width = max(LABEL, *(heat.width + SPACE for heat, _, _ in drawn))
    tall = max(heat.height for heat, _, _ in drawn)
    columns = max(1, (WIDTH + SPACE) // width)  # of tall frames more than the least fit
    height = CAPTION + 2 * tall + 3 + SPACE
    rows = -(-len(drawn) // columns)
    canvas = Image.new("RGB", (WIDTH, TOP + rows * height - SPACE), PAPER)
    draw = ImageDraw.Draw(canvas)
    cells = drawn[0][2]
    text = f"{len(chosen)} of {len(frames)} frames, {cells.rows} x {cells.columns} tokens over each"
    if len(found) < len(frames):
        text += f"; every slice of {-(-len(frames) // len(found))} frames shares its tokens, its first frame is shown"
    draw.text((0, 0), f"{name}: {text}" if name else text, INK, font(19))
    draw_scale(canvas, (0, 32))
    draw.text((420, 32), "(above)      what becomes of it (below)", FAINT, font(16))
    for number, (each, (heat, fates, _)) in enumerate(zip(chosen, drawn, strict=True)):
        x, y = number % columns * width, TOP + number // columns * height
        draw.text((x, y), f"frame {each.frame + 1}", INK, font(16))
        canvas.paste(heat, (x, y + CAPTION))
        canvas.paste(fates, (x, y + CAPTION + heat.height + 3))
    return canvas
