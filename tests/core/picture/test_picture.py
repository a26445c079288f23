"""Pictures: every token has one fate, kept pixels stay as they are, and the geometry is the grids'."""

import numpy as np
import pytest
from PIL import Image

from vflowopt import Strategy, TokenLayout
from vflowopt.errors import InputError
from vflowopt.picture import DROPPED, KEPT, MERGED, RECYCLED, Cells, draw_plans, paint_fates, slices, token_fates


def layout_of(*grids, structural=2):
    positions = [np.stack([np.full(r * c, v), *np.divmod(np.arange(r * c), c)], 1) for v, (r, c) in enumerate(grids)]
    return TokenLayout(np.concatenate([*positions, np.full((structural, 3), -1)]).astype(np.int64))


def plan_of(*grids, cell=2.0, retention=(0.5, 0.6, 0.5), structural=2):
    layout = layout_of(*grids, structural=structural)
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


def test_images_and_several_images_are_drawn():
    photo, wide = Image.new("RGB", (64, 48), "red"), Image.new("L", (200, 20))
    one = draw_plans([plan_of((6, 6), (8, 12))], [photo], num_layers=9, title="a question " * 30, subtitle="an answer")
    several = draw_plans([plan_of((6, 6)), plan_of((6, 6))], [photo, wide], num_layers=9)
    assert one.mode == "RGB"
    assert several.height > one.height // 2


@pytest.mark.parametrize(
    ("frames", "temporal", "expected"),
    [
        (3, 3, [0, 1, 2]),
        (1, 1, [0]),
        (6, 3, [0, 2, 4]),
        (5, 3, [0, 2, 4]),
        (32, 16, [*range(0, 32, 2)]),
        (1, 2, [0, 0]),
    ],
)
def test_a_slice_shows_the_first_of_its_frames(frames, temporal, expected):
    plan = plan_of(*[(2, 3)] * temporal, structural=0)
    found = slices([plan], frames)
    assert [each.grid for each in found] == list(range(temporal))
    assert [each.frame for each in found] == expected


def colours_of(picture):
    red, green, blue = np.moveaxis(np.asarray(picture).astype(np.int64), -1, 0)
    packed = np.unique(red << 16 | green << 8 | blue)
    return {(int(colour) >> 16, int(colour) >> 8 & 255, int(colour) & 255) for colour in packed}


def plain(number):
    """A frame of one colour that legend, text and scale lack, so that a kept token tells which frame it is of."""
    return Image.new("RGB", (60, 40), (201 + number, 17, 3 * number))


def test_a_contact_sheet_shows_every_frame_over_its_own_pixels():
    """Each frame's colour is there, as some token of each is kept; of a slice of two frames the first's alone."""
    frames = [plain(number) for number in range(6)]
    each = draw_plans([plan_of(*[(4, 4)] * 6, cell=None)], [frames], num_layers=9)
    halves = draw_plans([plan_of(*[(4, 4)] * 3, cell=None)], [frames], num_layers=9)
    shown = [frame.getpixel((0, 0)) for frame in frames]
    assert set(shown) <= colours_of(each)
    assert set(shown) & colours_of(halves) == set(shown[::2])


def test_at_most_16_frames_are_shown_the_first_and_last_among_them():
    frames = [plain(number) for number in range(40)]
    # Everything is retained, so that every token of a frame that is shown has the frame's colour.
    plan = plan_of(*[(2, 2)] * 40, retention=(1.0, 1.0, 1.0), structural=0)
    found = colours_of(draw_plans([plan], [frames], num_layers=9))
    shown = [number for number, frame in enumerate(frames) if frame.getpixel((0, 0)) in found]
    assert len(shown) == 16
    assert (shown[0], shown[-1]) == (0, 39)
    assert set(np.diff(shown).tolist()) == {2, 3}


def test_media_are_drawn_in_prompt_order_each_with_its_own_plan():
    """Of the k-th medium all is retained, of the others a token: most of its colour, by far, is to be seen."""
    media = [plain(0), [plain(1), plain(2)], plain(3)]
    colours = [[plain(0)], [plain(1), plain(2)], [plain(3)]]
    for chosen in range(3):
        plans = [
            plan_of(*grids, retention=(1.0 if number == chosen else 0.01,) * 3, cell=None, structural=0)
            for number, grids in enumerate([[(3, 3)], [(3, 3), (3, 3)], [(3, 3)]])
        ]
        drawn = np.asarray(draw_plans(plans, media, num_layers=9))
        areas = [sum((drawn == one.getpixel((0, 0))).all(axis=-1).sum() for one in own) for own in colours]
        others = max(area for index, area in enumerate(areas) if index != chosen)
        assert areas[chosen] > 2 * others


def test_frames_that_are_images_to_the_model_make_one_contact_sheet():
    """InternVL and SmolVLM: one plan per frame; counts add up, as in the picture of one plan with three grids."""
    frames = [plain(number) for number in range(3)]
    everything = {"retention": (1.0, 1.0, 1.0), "structural": 0}
    each = draw_plans([plan_of((3, 3), **everything) for _ in frames], [frames], num_layers=9)
    at_once = draw_plans([plan_of(*[(3, 3)] * 3, **everything)], [frames], num_layers=9)
    assert each.size == at_once.size
    legends = [np.asarray(picture)[-250:] for picture in (each, at_once)]
    assert (legends[0] == legends[1]).all()


def test_the_same_plan_gives_the_same_picture():
    first, second = (draw_plans([plan_of((6, 6))], [Image.new("RGB", (50, 50))], num_layers=9) for _ in range(2))
    assert first.tobytes() == second.tobytes()


FRAME = Image.new("RGB", (8, 8))


@pytest.mark.parametrize(
    ("plans", "media"),
    [(0, [FRAME]), (2, [FRAME]), (2, [FRAME] * 3), (1, []), (1, [[]]), (2, [[FRAME] * 3]), (3, [[FRAME] * 3, FRAME])],
)
def test_plans_and_media_must_go_together(plans, media):
    with pytest.raises(InputError, match="cannot be drawn"):
        draw_plans([plan_of((4, 4))] * plans, media, num_layers=9)
