"""No strategy is refused on any picture, and its counts are exact: random strategies, geometry of real families."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from support.cases.llava_next import tiny_llava_next
from support.tiny import tiny_onevision
from support.tiny_qwen import tiny_qwen2_vl
from vflowopt import GridRecycler, Progressive, Strategy, TokenLayout
from vflowopt.components.baselines import RandomTokens
from vflowopt.methods import DensityPeaks
from vflowopt.testing import require_valid_plan
from vflowopt_hf.families.anyres import grid_positions
from vflowopt_hf.families.crops import crop_units
from vflowopt_hf.families.llava_next import LlavaNext
from vflowopt_hf.families.llava_onevision import LlavaOnevision
from vflowopt_hf.vision.unit_joining import join
from vflowopt_qwen.qwen2_vl import Qwen2VL

LAYOUTS, STRATEGIES = 2000, 200


def anyres(family, model, rng, count):
    """Images of up to 400 x 400 pixels, also narrow ones; some of them not tiled."""
    sizes = torch.from_numpy(np.ceil(400 ** rng.random((count, 2))).astype(np.int64))
    pixels = torch.zeros(count, 1, 3, 1, 1)  # looked at by nobody here
    alone = torch.ones(count, dtype=torch.int64)
    return family.units(model, "image", {"pixel_values": pixels, "image_sizes": sizes, "batch_num_images": alone})


def crops(rng, count):
    """Images of one to nine square crops, each a part of its own."""
    for _ in range(count):
        side, parts = int(rng.integers(1, 9)), int(rng.integers(1, 10))
        pixels = torch.zeros(parts, 3, 2 * side, 2 * side)
        yield join(list(crop_units(pixels, 1, lambda patches: patches.reshape(-1, 4))))


def wholes_and_crops(rng, count):
    """Images seen as a whole and, in a second grid, more closely."""
    for _ in range(count):
        grids = [(number, *rng.integers(1, 9, 2).tolist()) for number in (0, 1)]
        yield TokenLayout(np.concatenate([grid_positions(*grid) for grid in grids]))


def layouts(rng):
    """Of every geometry that families have.

    Tiled images with a separator after every row (LLaVA-NeXT and -OneVision), videos that end in one (LLaVA-OneVision),
    grids of merged patches (Qwen2-VL, and all that have one view per image), crops joined to images (InternVL,
    Idefics3 and their like), a whole and its crops (Molmo2).
    """
    onevision = tiny_onevision()
    units = [*anyres(LlavaNext(), tiny_llava_next(), rng, 640), *anyres(LlavaOnevision(), onevision, rng, 640)]
    for frames in range(1, 21):
        units += LlavaOnevision().units(onevision, "video", {"pixel_values_videos": torch.zeros(1, frames, 3, 1, 1)})
    grid = torch.from_numpy(np.stack([np.ones(300, dtype=np.int64), *(2 * rng.integers(1, 12, (2, 300)))], axis=1))
    units += Qwen2VL().units(tiny_qwen2_vl(), "image", {"pixel_values": torch.zeros(1, 1), "image_grid_thw": grid})
    units += crops(rng, 200)
    return [*(unit.layout for unit in units), *wholes_and_crops(rng, 200)]


def strategies(rng):
    for _ in range(STRATEGIES):
        stages = np.sort(rng.choice(28, rng.integers(1, 5), replace=False)).tolist()
        cumulative = np.sort(10 ** (-4 * rng.random(len(stages)) ** 2))[::-1].tolist()
        recycler = [None, GridRecycler(cell=1 + 9 * float(rng.random())), DensityPeaks()][rng.integers(3)]
        yield Strategy(
            scorer=RandomTokens(),
            schedule=Progressive.from_cumulative(stages, cumulative),
            recycler=recycler,
            separators=("keep", "rank", "merge", "drop")[rng.integers(4)],
        )


def plan(strategy, layout, rng):
    """The plan of a unit of random importance and hidden states."""
    states = rng.random((layout.tokens, 4), dtype=np.float32)
    if isinstance(strategy.recycler, DensityPeaks):  # looks at embeddings before the LLM: begins inside
        stages = tuple(stage + 1 for stage in strategy.schedule.stages)
        schedule = Progressive(stages=stages, retention=strategy.schedule.retention)
        strategy = strategy.model_copy(update={"schedule": schedule})
    draft = strategy.draft(rng.random(layout.tokens, dtype=np.float32), layout)
    while not draft.plan.is_complete:
        draft = draft.decide(states.__getitem__)
    return draft.plan


def require_exact(strategy, layout, made):
    tokens = layout.tokens
    expected = [min(tokens, max(1, math.floor(share * tokens + 0.5))) for share in strategy.schedule.cumulative]
    assert list(made.counts) == expected
    assert all(set(after.tolist()) <= set(before.tolist()) for before, after in pairwise(made.kept))


def test_any_strategy_on_any_picture():
    rng = np.random.default_rng(0)
    pictures, chosen = layouts(rng), list(strategies(rng))
    assert len(pictures) == LAYOUTS
    for number, layout in enumerate(pictures[::4]):
        strategy = chosen[number % STRATEGIES]
        made = plan(strategy, layout, rng)
        require_exact(strategy, layout, made)
        require_valid_plan(made, strategy)
    shares = [layout.structural.mean() for layout in pictures]
    assert min(shares) == 0
    assert max(shares) > 0.2


@pytest.mark.slow
def test_every_strategy_on_every_picture():
    rng = np.random.default_rng(0)
    pictures, chosen = layouts(rng), list(strategies(rng))
    for layout in pictures:
        for strategy in chosen:
            require_exact(strategy, layout, plan(strategy, layout, rng))
