"""Hypothesis generators of token layouts, importance maps and attention.

Sizes and kinds are drawn, so that they shrink; bulk numbers come from a drawn seed, so that drawing stays fast.
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from vflowopt import TokenLayout

seeds = st.integers(0, 2**32 - 1)


@st.composite
def positions(draw, max_grids=4, max_side=9):
    """(view, row, column) of one unit: some grids in prompt order, with newlines after rows, after grids, or none.

    Sometimes the prompt order is not row-major, and sometimes there are structural tokens only.
    """
    places = []
    max_grids, max_side = (2, 2 * max_side) if draw(st.integers(0, 7)) == 0 else (max_grids, max_side)
    for view in range(draw(st.integers(0 if draw(st.integers(0, 9)) == 0 else 1, max_grids))):
        rows, columns = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
        newline_per_row = draw(st.booleans())
        for row in range(rows):
            places += [(view, row, column) for column in range(columns)]
            places += [(-1, -1, -1)] * newline_per_row
        places += [(-1, -1, -1)] * draw(st.integers(0, 1))
    assume(places)
    position = np.array(places, dtype=np.int64)
    if draw(st.integers(0, 4)) == 0:
        position = position[np.random.default_rng(draw(seeds)).permutation(len(position))]
    return position


@st.composite
def importances(draw, tokens, exact=False):
    """float32 [tokens], non-negative: many ties, all equal, mostly zero, or spread over orders of magnitude.

    ``exact`` keeps to small multiples of 1/64, whose sums carry no rounding error in float32.
    """
    rng = np.random.default_rng(draw(seeds))
    kind = draw(st.sampled_from(["ties", "equal", "sparse", "distinct"] + ["spread", "uniform"] * (not exact)))
    if kind == "equal":
        values = np.full(tokens, draw(st.integers(0, 3)) / 64)
    elif kind == "ties":
        values = rng.integers(0, draw(st.integers(1, 8)) + 1, tokens) / 64
    elif kind == "sparse":
        values = np.where(rng.random(tokens) < 0.8, 0, rng.integers(1, 64, tokens) / 64)
    elif kind == "distinct":
        values = (rng.permutation(tokens) + 1) / 64
    elif kind == "spread":
        values = 10.0 ** rng.uniform(-12, 4, tokens)
    else:
        values = rng.random(tokens)
    return values.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Case:
    """One unit to prune, with feasible, non-increasing counts."""

    importance: np.ndarray
    layout: TokenLayout
    counts: tuple[int, ...]
    side: float

    @property
    def position(self):
        return self.layout.position

    @property
    def stages(self):
        return tuple(3 * stage for stage in range(len(self.counts)))

    def __repr__(self):
        return (
            f"Case(counts={self.counts}, side={self.side}, importance={self.importance.tolist()}, "
            f"position={self.position.tolist()})"
        )


sides = st.one_of(st.sampled_from([1.0, 1.5, 2.0, 2.5, 3.0, 100.0]), st.floats(1, 12))


@st.composite
def cases(draw, exact=False, max_stages=3, min_stages=1, **sizes):
    """A :class:`Case`."""
    position = draw(positions(**sizes))
    layout = TokenLayout(position)
    tokens = layout.tokens
    counts, most = [], tokens
    for _ in range(draw(st.integers(min_stages, max_stages))):
        most = draw(st.integers(int(layout.structural.sum()), most))
        counts.append(most)
    return Case(draw(importances(tokens, exact=exact)), layout, tuple(counts), draw(sides))


@st.composite
def attention_matrices(draw, max_views=3, max_patches=40):
    """Row-stochastic float32 [views, patches, patches]: uniform, diffuse, or with attention sinks."""
    views, patches = draw(st.integers(1, max_views)), draw(st.integers(1, max_patches))
    rng = np.random.default_rng(draw(seeds))
    logits = rng.normal(size=(views, patches, patches)) * draw(st.sampled_from([0.0, 0.3, 3.0]))
    sinks = draw(st.integers(0, min(3, patches)))
    logits[:, :, :sinks] += draw(st.sampled_from([2.0, 6.0]))
    weights = np.exp(logits)
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


@st.composite
def exact_attention(draw, max_views=3):
    """Matrices of small multiples of 1/8 over a power of two of patches: sums and means are exact, ties are common."""
    views, patches = draw(st.integers(1, max_views)), draw(st.sampled_from([1, 2, 4, 8, 16]))
    rng = np.random.default_rng(draw(seeds))
    return (rng.integers(0, draw(st.integers(1, 4)) + 1, (views, patches, patches)) / 8).astype(np.float32)


@st.composite
def schedules(draw, max_layers=40):
    """(stages, ratios, num_layers), any number of stages, the first not always before the LLM."""
    num_layers = draw(st.integers(1, max_layers))
    stages = sorted(draw(st.sets(st.integers(0, num_layers - 1), min_size=1, max_size=min(4, num_layers))))
    ratios = draw(st.lists(st.floats(0.01, 1.0), min_size=len(stages), max_size=len(stages)))
    return tuple(stages), tuple(ratios), num_layers
