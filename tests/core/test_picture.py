"""Pictures: every token has one fate, kept pixels stay as they are, and the geometry is the grids'."""

import numpy as np
import pytest
from PIL import Image

from vflowopt import Strategy, TokenLayout
from vflowopt.errors import InputError
from vflowopt.picture import DROPPED, KEPT, MERGED, RECYCLED, Cells, draw_plans, paint_fates, token_fates


def layout_of(*grids, structural=2):
    positions = [np.stack([np.full(r * c, v), *np.divmod(np.arange(r * c), c)], 1) for v, (r, c) in enumerate(grids)]
    return TokenLayout(np.concatenate([*positions, np.full((structural, 3), -1)]).astype(np.int64))


def plan_of(*grids, cell=2.0, retention=(0.5, 0.6, 0.5)):
    layout = layout_of(*grids)
    strategy = Strategy.vflowopt(num_layers=9, retention=retention, cell=cell)
    return strategy.plan(np.random.default_rng(0).random(layout.tokens, dtype=np.float32), layout)


@pytest.mark.parametrize("cell", [None, 2.0, 4.0])
def test_fates_agree_with_the_plan(cell):
    plan = plan_of((6, 6), (8, 12), cell=cell)
    fate = token_fates(plan)
    final = np.isin(fate, [KEPT, RECYCLED])
    assert (np.flatnonzero(final) == plan.kept[-1]).all()
    for stage in (1, 2):
        gone = set(plan.kept[stage - 1].tolist()) - set(plan.kept[stage].tolist())
        assert set(np.flatnonzero(fate == DROPPED + stage).tolist()) == gone
    merged = (plan.anchor >= 0) & (plan.anchor != np.arange(plan.tokens))
    assert ((fate == MERGED) == merged).all()
    assert ((fate == DROPPED) == (plan.anchor < 0)).all()
    if cell is None:
        assert not merged.any()
        assert not (fate == RECYCLED).any()


def test_a_cell_covers_its_part_of_the_image():
    plan = plan_of((4, 6))
    cells = Cells.of(plan, 0, (60, 40))
    assert cells.token.shape == (40, 60)
    assert (cells.token[::10, ::10] == np.arange(24).reshape(4, 6)).all()
    assert (cells.token[9::10, 9::10] == np.arange(24).reshape(4, 6)).all()


def test_kept_pixels_are_left_as_they_are():
    plan = plan_of((4, 6))
    cells = Cells.of(plan, 0, (120, 80))
    pixels = np.random.default_rng(0).integers(0, 255, (80, 120, 3)).astype(float)
    painted = paint_fates(token_fates(plan), cells, pixels)
    inside = (token_fates(plan)[cells.token] == KEPT) & ~cells.inset(2)
    assert inside.any()
    assert (painted[inside] == pixels[inside]).all()
    dropped = np.isin(token_fates(plan)[cells.token], [MERGED, DROPPED, DROPPED + 1, DROPPED + 2])
    assert (np.abs(painted - pixels).sum(-1)[dropped] > 0).mean() > 0.99


def test_images_videos_and_several_images_are_drawn():
    photo, wide = Image.new("RGB", (64, 48), "red"), Image.new("L", (200, 20))
    one = draw_plans([plan_of((6, 6), (8, 12))], [photo], num_layers=9, title="a question " * 30, subtitle="an answer")
    several = draw_plans([plan_of((6, 6)), plan_of((6, 6))], [photo, wide], num_layers=9)
    video = draw_plans([plan_of(*[(4, 4)] * 3)], [photo, wide, photo], num_layers=9)
    assert one.mode == "RGB"
    assert several.height > one.height // 2
    assert video.height > 3 * 48


def test_the_same_plan_gives_the_same_picture():
    first, second = (draw_plans([plan_of((6, 6))], [Image.new("RGB", (50, 50))], num_layers=9) for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize(("plans", "images"), [(0, 1), (2, 1), (2, 3)])
def test_plans_and_images_must_go_together(plans, images):
    with pytest.raises(InputError, match="cannot be drawn"):
        draw_plans([plan_of((4, 4))] * plans, [Image.new("RGB", (8, 8))] * images, num_layers=9)
