"""HiPrune: what a middle vision layer attends to, its neighbourhood, and what the last layer attends to.

Liu et al., "HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models", 2025,
arXiv 2508.00553; code: Danielement321/HiPrune.

Middle layers of a vision tower attend to objects, late ones to few tokens that hold the rest. Of T tokens to retain,
A = round(alpha T / 5) are anchors: those that receive most attention in a middle layer, mean over heads and queries.
Buffers are the tokens above, below, left and right of them. What is left of T goes to registers: those that receive
most attention in the layer whose output the model uses. The paper's alpha is 0.1, its layer the 9th of CLIP's 24 and
the 16th of 32 of Qwen2.5-VL's tower.

Where this differs from the public code:

- The middle layer is a share of the layers up to the observed one, 0.4 by default: CLIP's 9th of 23, as there.
- Attention is taken from patches to visual tokens as the features are, and neighbours are those in the grid of tokens.
  There, the neighbour left of a row's first token is the last one of the row above, and at the end of an image a token
  is its own neighbour.
- The class token's query does not count in the mean.
- There every crop keeps the same number of tokens. Here those of a unit compete, so that the count is exact also where
  crops are unpadded or pooled.
- Structural tokens take no part.
"""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from vflowopt.arrays import Array, HostInts, asarray_like, descending_order, inverse_permutation, namespace, pick
from vflowopt.components import Score, Scorer, ScoringContext
from vflowopt.layout import TokenLayout
from vflowopt.methods.ordering import by_order


class HiPrune(Scorer):
    """Anchors and buffers of a middle layer, then registers of the observed one.

    Attributes:
        alpha: share of what is retained that anchors and buffers may make up.
        layer: the middle layer, as a share of the vision layers up to the observed one; rounded to a whole layer.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["hiprune"] = "hiprune"
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.1
    layer: Annotated[float, Field(gt=0, le=1)] = 0.4

    @property
    def needs(self) -> frozenset[str]:
        """See :attr:`Component.needs`."""
        return frozenset({"attention", "layer-attention"})

    def attention_layers(self, depth: int) -> frozenset[int]:
        """See :meth:`Component.attention_layers`."""
        return frozenset({self.middle(depth)})

    def middle(self, depth: int) -> int:
        """Number of the middle layer, from 0, of so many."""
        return max(0, int(np.floor(self.layer * depth + 0.5)) - 1)

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        return self.score_retaining(context, context.layout.tokens)

    def score_retaining(self, context: ScoringContext, count: int) -> Score:
        """See :meth:`Scorer.score_retaining`."""
        layout = context.layout
        objects = context.layer_attention(self.middle(context.vision_depth))
        early, late = (context.to_tokens(source.received()) for source in (objects, context.attention))

        def choose(tokens: Array, steps: int) -> Array:
            anchors = int(np.floor(self.alpha * steps / 5 + 0.5))
            beside = layout.derived("neighbours", late, lambda: asarray_like(neighbours(layout), late))
            return hierarchical_order(pick(early, tokens), pick(late, tokens), beside, anchors)

        return Score(by_order(layout, count, late, choose), {})


def neighbours(layout: TokenLayout) -> HostInts:
    """The tokens above, below, left and right of each in its grid: int64 [tokens, 4], itself where there is none.

    Tokens that have a patch, numbered among themselves.
    """
    places = [tuple(place) for place in layout.position[~layout.structural].tolist()]
    number = {place: index for index, place in enumerate(places)}
    around = ((-1, 0), (1, 0), (0, -1), (0, 1))
    table = [
        [number.get((view, row + down, column + right), index) for down, right in around]
        for index, (view, row, column) in enumerate(places)
    ]
    return np.array(table, dtype=np.int64).reshape(-1, 4)


def hierarchical_order(early: Array, late: Array, beside: Array, anchors: int) -> Array:
    """All tokens in the order in which they are retained: anchors, buffers, registers and the rest by late attention.

    Args:
        early: float32 [tokens], attention received in the middle layer.
        late: float32 [tokens], in the observed one.
        beside: int64 [tokens, 4], see :func:`neighbours`.
        anchors: how many anchors.

    Returns:
        Indices int64 [tokens].
    """
    xp = namespace(late)
    place = inverse_permutation(descending_order(late))
    is_anchor = inverse_permutation(descending_order(early)) < anchors
    near = [pick(is_anchor, beside[:, side]) for side in range(beside.shape[1])]
    is_buffer = xp.any(xp.stack(near, axis=1), axis=1)  # a token is beside a token that is beside it
    behind = xp.astype(~is_anchor, place.dtype) * (2 - xp.astype(is_buffer, place.dtype))
    return xp.argsort(behind * late.shape[0] + place, stable=True)
