"""DART: a few pivots, and the tokens that are least like them.

Wen et al., "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More", EMNLP 2025,
arXiv 2502.11494; code: ZichenWen1/DART. This follows the reading of it in Tencent/AngelSlim.

Decoder layers 0 and 1 run with all visual tokens. Before layer 2, those with the largest keys in the layer before (sum
of the absolute values over all heads) are image pivots, and the text tokens with the largest keys are text pivots: 4 of
each. For every pivot in turn, as many tokens are retained as share the rest of the T tokens among all pivots, rounded
up: of the tokens not retained yet those whose hidden states have the least cosine similarity to the pivot's.

Where this differs from that code:

- Text pivots are of the prompt's text after the image. There, of all that is not visual.
- What to retain follows from the average retention, so that methods are compared at equal cost.
- Structural tokens take no part, and every image is ranked by itself.
"""

import math
from typing import Annotated, Literal

from pydantic import Field

from vflowopt.arrays import Array, descending_order, inverse_permutation, namespace, normalised, pick
from vflowopt.components.stage_scoring import StageContext, StageScorer
from vflowopt.methods.ordering import by_order


class DART(StageScorer):
    """Pivots with large keys, then what is least like them.

    Attributes:
        image_pivots: how many visual tokens are pivots.
        text_pivots: how many text tokens are, of those that there are.
    """

    name: Literal["dart"] = "dart"
    image_pivots: Annotated[int, Field(ge=1)] = 4
    text_pivots: Annotated[int, Field(ge=0)] = 4

    def rescore(self, context: StageContext) -> Array:
        """See :meth:`StageScorer.rescore`."""
        return self.rescore_retaining(context, context.layout.tokens)

    def rescore_retaining(self, context: StageContext, count: int) -> Array:
        """See :meth:`StageScorer.rescore_retaining`."""
        layout = context.layout
        visual = context.visual[~layout.structural]
        keys, texts = context.keys(visual), context.keys(context.text)
        xp = namespace(keys)

        def choose(tokens: Array, steps: int) -> Array:
            chosen = descending_order(xp.sum(xp.abs(texts), axis=1))[: self.text_pivots]
            pivots = pick(normalised(context.states(context.text)), chosen)
            largest = xp.where(pick(context.left, tokens), xp.sum(xp.abs(keys), axis=1), -xp.inf)
            return unlike_order(largest, normalised(context.states(visual)), pivots, steps, self.image_pivots)

        return by_order(layout, count, keys, choose)

    def default_stages(self, num_layers: int) -> tuple[int, ...]:  # noqa: ARG002
        """K = 2, whatever the depth."""
        return (2,)


def unlike_order(size: Array, directions: Array, texts: Array, count: int, image_pivots: int) -> Array:
    """All tokens in the order in which they are retained.

    Args:
        size: float32 [tokens], of their keys; -inf of tokens that were pruned before.
        directions: float32 [tokens, D], hidden states of length 1.
        texts: float32 [pivots, D], those of the text pivots.
        count: how many are retained.
        image_pivots: how many visual tokens are pivots at most.

    Returns:
        Indices int64 [tokens]: pivots, what the pivots in turn retain, and the rest by their keys.
    """
    xp, tokens = namespace(size), size.shape[0]
    by_size = descending_order(size)
    own = min(image_pivots, count)
    every = xp.concat([pick(directions, by_size[:own]), texts])
    pivots = every.shape[0]
    each = math.ceil((count - own) / pivots) if pivots else 0
    similarity = directions @ xp.matrix_transpose(every)
    step = 1 / (tokens + 1)
    place = xp.astype(inverse_permutation(by_size), size.dtype)
    turn = (pivots + 1) + place * step
    taken = place < own
    turn = xp.where(taken, place * step, turn)
    for pivot in range(pivots):
        open_to = xp.where(taken | (size == -xp.inf), xp.inf, similarity[:, pivot])
        rank = xp.astype(inverse_permutation(xp.argsort(open_to, stable=True)), size.dtype)
        now = (rank < each) & (open_to < xp.inf)
        turn, taken = xp.where(now, pivot + 1 + rank * step, turn), taken | now
    return xp.argsort(turn, stable=True)
