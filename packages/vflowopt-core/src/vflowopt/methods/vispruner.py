"""VisPruner: half of the tokens by attention, half from what is left when near copies are removed.

Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs", ICCV 2025,
arXiv 2412.01818; code: Theia-4869/VisPruner. It is the second version of FasterVLM
(:mod:`vflowopt.methods.fastervlm`).

Of T tokens to retain, the first floor(r T) are those with most attention. The others start in the order of their
attention, and near copies are removed until T - floor(r T) are left: in every round those at even places (a) are
compared with those at odd places (b), and of a the 8 with the largest

    max over j in b of cos(x_i, x_j)

go. What is left of a, by that similarity, and b make the next round's order. The default is r = 0.5.

Where this differs from the public code:

- x are the embeddings as they enter the decoder; there, outputs of the vision tower.
- There every crop keeps the same number of tokens. Here those of a unit compete, so that the count is exact also where
  crops are unpadded or pooled.
- Towers without a class token rank by the mean attention received, as its code for SigLIP does.
- That code fails where fewer than 16 tokens are left to choose from, or an odd number; here rounds end as they must.
- Structural tokens take no part.
"""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vflowopt.arrays import Array, descending_order, device_of, inverse_permutation, namespace, normalised, pick
from vflowopt.components import Score, Scorer, ScoringContext
from vflowopt.methods.saliency import Source, by_salient_order, need

_PER_ROUND = 8
"""Tokens that one round removes."""


class VisPruner(Scorer):
    """Attention first, and what is not a near copy among the others.

    What it retains depends on how many tokens it retains, so later stages of a schedule keep the first of these by
    attention.

    Cost: N x N similarities, and for every 8 tokens that the first stage drops a maximum over the rows of those left.

    Attributes:
        important: r, the share of what is retained that attention alone chooses.
        source: whose attention; "auto" is that of the class token where there is one, else the mean over patches.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["vispruner"] = "vispruner"
    important: Annotated[float, Field(ge=0, le=1)] = 0.5
    source: Source = "auto"

    @property
    def needs(self) -> frozenset[str]:
        """See :attr:`Component.needs`."""
        return need(self.source) | {"features"}

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`; as if all tokens were retained, which is by attention alone."""
        return self.score_retaining(context, context.layout.tokens)

    def score_retaining(self, context: ScoringContext, count: int) -> Score:
        """See :meth:`Scorer.score_retaining`."""

        def order(attention: Array, features: Array, steps: int) -> Array:
            return chosen_order(attention, features, steps, math.floor(self.important * steps))

        return by_salient_order(context, self.source, count, order)


def chosen_order(attention: Array, features: Array, count: int, important: int) -> Array:
    """All tokens, what is retained first, and by attention among themselves.

    Args:
        attention: float32 [tokens].
        features: float32 [tokens, D].
        count: how many are retained.
        important: how many of them by attention alone.

    Returns:
        Indices int64 [tokens].
    """
    xp = namespace(features)
    ranked = descending_order(attention)
    kept = ranked[:important]
    if count > important:
        directions = normalised(features)
        similarity = directions @ xp.matrix_transpose(directions)
        kept = xp.concat([kept, without_copies(similarity, ranked[important:], count - important)])
    number = xp.arange(features.shape[0], device=device_of(features))
    dropped = ~xp.any(number[:, None] == kept[None, :], axis=1)
    place = inverse_permutation(ranked)
    return xp.argsort(place + xp.astype(dropped, place.dtype) * features.shape[0], stable=True)


def without_copies(similarity: Array, left: Array, count: int) -> Array:
    """What the rounds leave.

    Args:
        similarity: float32 [tokens, tokens].
        left: int64 [left], the tokens in the order of the first round.
        count: how many to leave, at least 1.

    Returns:
        int64 [count].
    """
    xp = namespace(similarity)
    while left.shape[0] > count:
        even, odd = left[::2], left[1::2]
        fewer = min(_PER_ROUND, left.shape[0] - count, even.shape[0])
        likeness = xp.max(pick(pick(similarity, even), odd, axis=1), axis=1)
        left = xp.concat([pick(even, descending_order(likeness)[fewer:]), odd])
    return left
