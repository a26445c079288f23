"""Hypothesis strategies for layouts, importance maps and attention.

Sizes and kinds are drawn, so that they shrink; bulk numbers come from a drawn seed, so that drawing stays fast.
"""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt
from hypothesis import assume
from hypothesis import strategies as st

from vflowopt import TokenLayout
from vflowopt.arrays import HostInts
from vflowopt.plans.competitors import Separators

Floats = npt.NDArray[np.float32]

seeds = st.integers(0, 2**32 - 1)
"""Seeds of NumPy generators."""

sides = st.one_of(st.sampled_from([1.0, 1.5, 2.0, 2.5, 3.0, 100.0]), st.floats(1, 12))
"""Sides a >= 1 of recycling cells, in tokens."""


@st.composite
def positions(draw: st.DrawFn, max_grids: int = 4, max_side: int = 9, separators: bool = True) -> HostInts:
    """(view, row, column) of one unit, int64 [N, 3]: some crops or frames in prompt order, with separators or none.

    Separators come after rows, after grids, or not at all. Sometimes the prompt order is not row-major, and sometimes
    there are separators only. With ``separators=False`` there are none.
    """
    places: list[tuple[int, int, int]] = []
    max_grids, max_side = (2, 2 * max_side) if draw(st.integers(0, 7)) == 0 else (max_grids, max_side)
    for view in range(draw(st.integers(0 if draw(st.integers(0, 9)) == 0 else 1, max_grids))):
        rows, columns = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
        newline_per_row = separators and draw(st.booleans())
        for row in range(rows):
            places += [(view, row, column) for column in range(columns)]
            places += [(-1, -1, -1)] * newline_per_row
        places += [(-1, -1, -1)] * draw(st.integers(0, int(separators)))
    assume(places)
    position = np.array(places, dtype=np.int64)
    if draw(st.integers(0, 4)) == 0:
        position = position[np.random.default_rng(draw(seeds)).permutation(len(position))]
    return position


def layouts(max_grids: int = 4, max_side: int = 9, separators: bool = True) -> st.SearchStrategy[TokenLayout]:
    """Layouts over :func:`positions`."""
    return positions(max_grids, max_side, separators).map(TokenLayout)


separators: st.SearchStrategy[Separators] = st.sampled_from(get_args(Separators))
"""What becomes of separators."""


@st.composite
def importances(draw: st.DrawFn, tokens: int, exact: bool = False) -> Floats:
    """float32 [tokens], non-negative: many ties, all equal, mostly zero, or spread over orders of magnitude.

    ``exact`` keeps to small multiples of 1/64, whose sums carry no rounding error in float32.
    """
    rng = np.random.default_rng(draw(seeds))
    kind = draw(st.sampled_from(["ties", "equal", "sparse", "distinct"] + ["spread", "uniform"] * (not exact)))
    values: npt.NDArray[np.floating]
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
class PruningCase:
    """One unit to prune, with non-increasing counts.

    Attributes:
        importance: float32 [N].
        layout: of the N tokens.
        counts: tokens to retain after each stage.
        side: of recycling cells.
        separators: what becomes of separators.
    """

    importance: Floats
    layout: TokenLayout
    counts: tuple[int, ...]
    side: float
    separators: Separators

    @property
    def position(self) -> HostInts:
        """int64 [N, 3], see :class:`vflowopt.TokenLayout`."""
        return self.layout.position

    @property
    def stages(self) -> tuple[int, ...]:
        """A decoder layer for each count."""
        return tuple(3 * stage for stage in range(len(self.counts)))

    def __repr__(self) -> str:
        return (
            f"PruningCase(counts={self.counts}, side={self.side}, separators={self.separators!r}, "
            f"importance={self.importance.tolist()}, position={self.position.tolist()})"
        )


@st.composite
def pruning_cases(
    draw: st.DrawFn,
    exact: bool = False,
    max_stages: int = 3,
    min_stages: int = 1,
    max_grids: int = 4,
    max_side: int = 9,
    with_separators: bool = True,
) -> PruningCase:
    """A :class:`PruningCase`; see :func:`importances` for ``exact``, :func:`positions` for the separators."""
    layout = draw(layouts(max_grids, max_side, with_separators))
    counts, most = [], layout.tokens
    for _ in range(draw(st.integers(min_stages, max_stages))):
        most = draw(st.integers(1, most))
        counts.append(most)
    importance = draw(importances(layout.tokens, exact=exact))
    return PruningCase(importance, layout, tuple(counts), draw(sides), draw(separators))


@st.composite
def attention_matrices(
    draw: st.DrawFn, max_views: int = 3, max_patches: int = 40, shape: tuple[int, int] | None = None
) -> Floats:
    """Row-stochastic float32 [views, patches, patches]: uniform, diffuse, one-hot, or with attention sinks.

    ``shape`` fixes (views, patches).
    """
    if shape is None:
        shape = draw(st.integers(1, max_views)), draw(st.integers(1, max_patches))
    views, patches = shape
    rng = np.random.default_rng(draw(seeds))
    logits = rng.normal(size=(views, patches, patches)) * draw(st.sampled_from([0.0, 0.3, 3.0, 1e4]))
    logits[:, :, : draw(st.integers(0, min(3, patches)))] += draw(st.sampled_from([2.0, 6.0]))
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    matrices: Floats = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    return matrices


@st.composite
def exact_attention(draw: st.DrawFn, max_views: int = 3) -> Floats:
    """Matrices of small multiples of 1/8 over a power of two of patches: sums and means are exact, ties are common."""
    views, patches = draw(st.integers(1, max_views)), draw(st.sampled_from([1, 2, 4, 8, 16]))
    rng = np.random.default_rng(draw(seeds))
    matrices: Floats = (rng.integers(0, draw(st.integers(1, 4)) + 1, (views, patches, patches)) / 8).astype(np.float32)
    return matrices
