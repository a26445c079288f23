"""EVS: of a video the first frame, and of every other what has changed since the frame before.

Bagrov et al., "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference", 2025, arXiv
2510.14624; code: in vLLM (``vllm/multimodal/evs.py``).

With x the embeddings as they enter the decoder, token i of a frame and j the one in its place in the frame before,

    I_i = 1 - cos(x_i, x_j)

and all tokens of the first frame come before. Tokens are ranked once, before the LLM, all frames together: a frame in
which much happens has more of them. No attention is looked at, so every family offers what it needs.

Where this differs from the public code:

- That code never retains fewer tokens than a frame has. Here a budget may be lower; then those of the first frame are
  taken that are spread evenly over it. There the first rows would be left.
- An image is not pruned there. Here it is a first frame: its tokens are taken spread evenly.
- What has no counterpart in the frame before, as where two crops of an image differ in size, counts as a first frame.
"""

from typing import ClassVar, Literal

import numpy as np

from vflowopt.arrays import Array, HostInts, asarray_like, flaw, namespace, normalised, pick
from vflowopt.components import Score, Scorer, ScoringContext
from vflowopt.components.baselines import evenly
from vflowopt.layout import TokenLayout

_FIRST = 2.0
"""The largest cosine distance: tokens of a first frame are ranked above it."""


class EVS(Scorer):
    """Cosine distance from the token in the same place of the frame before. No options."""

    vectorises: ClassVar[bool] = True
    name: Literal["evs"] = "evs"

    @property
    def needs(self) -> frozenset[str]:
        """See :attr:`Component.needs`."""
        return frozenset({"features"})

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        features, layout = context.features, context.layout

        def tables() -> tuple[Array, ...]:
            before = frame_before(layout)
            first = np.where((before < 0) & ~layout.structural, _FIRST + evenly(layout), 0.0).astype(np.float32)
            return tuple(asarray_like(host, features) for host in (np.maximum(before, 0), before >= 0, first))

        before, has_one, first = layout.derived("frame-before", features, tables)
        return Score(namespace(features).where(has_one, changes(features, before), first) + flaw(features), {})


def frame_before(layout: TokenLayout) -> HostInts:
    """Of each token the one in its place in the grid before: int64 [N]; -1 where there is none, or structural."""
    before = np.full(layout.tokens, -1, dtype=np.int64)
    places = {tuple(place): token for token, place in enumerate(layout.position.tolist()) if place[0] >= 0}
    for (view, row, column), token in places.items():
        before[token] = places.get((view - 1, row, column), -1)
    return before


def changes(features: Array, before: Array) -> Array:
    """Cosine distance of each token from another one.

    Args:
        features: float32 [N, D].
        before: int64 [N], the other one.

    Returns:
        float32 [N] in [0, 2].
    """
    xp, directions = namespace(features), normalised(features)
    return xp.clip(1 - xp.sum(directions * pick(directions, before), axis=1), 0.0, _FIRST)
