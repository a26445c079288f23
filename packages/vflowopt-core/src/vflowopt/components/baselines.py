"""Selections that any method must beat: random, evenly spread, and what downsampling the image would give.

None of them looks at attention. Plain mean attention is ``CalibratedAttention`` with threshold 0.
"""

import zlib
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from vflowopt.arrays import HostInts, to_numpy
from vflowopt.components.context import ScoringContext
from vflowopt.components.contract import Component, Score, Scorer
from vflowopt.layout import TokenLayout

_PLASTIC = 1.32471795724474602596  # the real root of x**3 = x + 1
_R2 = np.array([1 / _PLASTIC, 1 / _PLASTIC**2])


class RandomTokens(Scorer):
    """A random ranking of the tokens: the same for the same image and seed, another one for every other image.

    Attributes:
        seed: of the ranking.
    """

    name: Literal["random"] = "random"
    seed: Annotated[int, Field(ge=0)] = 0

    @property
    def needs(self) -> frozenset[str]:
        """The entropy tells images apart: unlike attention it comes from 8-bit values, equal on every device."""
        return frozenset({"entropy"})

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        image = zlib.crc32(np.round(to_numpy(context.entropy) * 1000).astype("<i8").tobytes())
        draws = np.random.default_rng((self.seed, image)).random(context.layout.tokens, dtype=np.float32)
        return Score(context.place(draws), {})


class UniformGrid(Scorer):
    """Tokens evenly spread over every grid: any number of the first ones covers the image about evenly.

    Grids share the budget in proportion to their sizes.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["uniform-grid"] = "uniform-grid"

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        return Score(context.place(evenly(context.layout).astype(np.float32)), {})


class LowResolution(Scorer):
    """The coarsest grid first, and evenly spread within a grid: what downsampling the image gives.

    Every grid spans the whole image, so the one with the fewest tokens sees it at the lowest resolution. The base crop
    of LLaVA-OneVision is the image scaled down to one crop: while the budget covers no more than it, this baseline is
    exactly "scale the image down first" (and, below that, nearest-neighbour subsampling of its tokens); what is left
    goes to the next finer grid.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["low-resolution"] = "low-resolution"

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        layout = context.layout
        tokens = ~layout.structural
        sizes = np.bincount(layout.position[tokens, 0])[layout.position[tokens, 0]]
        coarser, level = np.unique(sizes, return_inverse=True)
        importance = np.zeros(layout.tokens, dtype=np.float64)
        importance[tokens] = (len(coarser) - 1 - level + evenly(layout)[tokens]) / max(len(coarser), 1)
        return Score(context.place(importance.astype(np.float32)), {})


BASELINES: tuple[type[Component], ...] = (RandomTokens, UniformGrid, LowResolution)


def evenly(layout: TokenLayout) -> npt.NDArray[np.float64]:
    """[N] in (0, 1): 1 minus each token's place in the even order of its own grid, as a fraction of the grid."""
    values = np.zeros(layout.tokens, dtype=np.float64)
    for view in np.unique(layout.position[~layout.structural, 0]):
        members = np.flatnonzero(layout.position[:, 0] == view)
        rank = np.empty(len(members))
        rank[spread_order(layout.position[members, 1:])] = np.arange(len(members))
        values[members] = 1.0 - (rank + 0.5) / len(members)
    return values


def spread_order(places: HostInts) -> HostInts:
    """An order of the cells of a full grid in which every beginning is evenly spread over it.

    Cells in the order in which Roberts' R2 sequence, the plane's low-discrepancy sequence made of the plastic number,
    first visits them; it is even in both axes at once, whatever the grid's shape.

    Args:
        places: int64 [n, 2], (row, column), each cell once.

    Returns:
        Indices int64 [n] into ``places``.
    """
    rows, columns = (int(side) for side in places.max(axis=0) + 1)
    index = np.full(rows * columns, -1, dtype=np.int64)
    index[places[:, 0] * columns + places[:, 1]] = np.arange(len(places))
    visited: HostInts = np.empty(0, dtype=np.int64)
    steps = 2 * rows * columns
    while len(visited) < rows * columns:  # the sequence is dense: it reaches every cell
        point = (0.5 + np.arange(steps)[:, None] * _R2) % 1.0
        cell = np.floor(point[:, 0] * rows).astype(np.int64) * columns + np.floor(point[:, 1] * columns).astype(
            np.int64
        )
        cells, first = np.unique(cell, return_index=True)
        visited = cells[np.argsort(first)]
        steps *= 2
    ordered = index[visited]
    return ordered[ordered >= 0]
