"""DivPrune: the most diverse tokens.

Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", CVPR 2025, arXiv 2503.02175;
code: vbdi/divprune.

Greedy max-min diversity of the visual tokens' embeddings as they enter the decoder, once, before the LLM. With
d = 1 - cosine similarity, the first token is the one farthest from its nearest neighbour; every further one is

    argmax_i  min over chosen j of d(i, j)

The importance is the place in this order, so that any count takes the first ones; those that no stage can retain
follow by their distance from the chosen. No attention is looked at, so every family offers what it needs. No options.

Where this differs from the public code: separators take no part, since the strategy says what becomes of them; a token
is never chosen twice; distances are float32 whatever the model's dtype. There, every step takes the minimum over all
chosen rows anew; here, over the last one only.
"""

from typing import ClassVar, Literal

from vflowopt.arrays import Array, descending_order, device_of, namespace, normalised, pick
from vflowopt.components import Score, Scorer, ScoringContext
from vflowopt.components.greedy import Greedy, choose_greedily
from vflowopt.methods.ordering import by_order


class DivPrune(Scorer):
    """Greedy max-min diversity by cosine distance.

    Cost: a matrix of N x N distances, and for every token that the first stage retains one small step on N numbers, 4
    operations or a part of one kernel; nothing is read back from the device.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["divprune"] = "divprune"

    @property
    def needs(self) -> frozenset[str]:
        """See :attr:`Component.needs`."""
        return frozenset({"features"})

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        return self.score_retaining(context, context.layout.tokens)

    def score_retaining(self, context: ScoringContext, count: int) -> Score:
        """See :meth:`Scorer.score_retaining`."""
        features = context.features

        def choose(tokens: Array, steps: int) -> Array:
            return diverse_order(pick(features, tokens), steps, context.choose_greedily)

        return Score(by_order(context.layout, count, features, choose), {})


def diverse_order(features: Array, steps: int, greedy: Greedy = choose_greedily) -> Array:
    """All tokens, each as far as possible in cosine distance from those before it.

    Args:
        features: float [tokens, D]; at least one token.
        steps: after so many tokens, the others follow by their distance from these.
        greedy: chooses them.

    Returns:
        Indices int64 [tokens].
    """
    xp = namespace(features)
    directions = normalised(features)
    distance = 1 - directions @ xp.matrix_transpose(directions)
    number = xp.arange(features.shape[0], device=device_of(features))
    itself = number[:, None] == number[None, :]
    first = xp.min(xp.where(itself, xp.inf, distance), axis=0)
    # What is chosen is not chosen again.
    chosen, left = greedy(first, xp.where(itself, -xp.inf, distance), steps)
    return xp.concat([chosen, descending_order(left)[: features.shape[0] - steps]])
