"""MMR: tokens that matter and differ from those that were chosen before them.

Tan et al., "IDPruner: Harmonizing Importance and Diversity in Visual Token Pruning for MLLMs", 2026, arXiv 2602.13315;
code: Tencent/AngelSlim. Maximal marginal relevance itself is of Carbonell and Goldstein, SIGIR 1998.

Tokens are chosen greedily, once, before the LLM. With the importance w scaled to [0, 1], the next one is

    argmax_i  lambda * I_i - (1 - lambda) * max over chosen j of cos(x_i, x_j),    I_i = (w_i - min w) / (max w - min w)

and the first one is the most important. x are the embeddings as they enter the decoder.

Where this differs from the public code:

- There w comes from a small network that was trained for it (VisionSelector). Nothing is trained here: w is the
  attention in the observed vision layer, of the class token where there is one, else the mean.
- Attention is concentrated on few tokens, so that most I are close to 0: the default of lambda is 0.8, not 0.5.
- Structural tokens take no part; of equally good tokens the one with the lower index is chosen.
- That code may choose several tokens per step; here it is always one.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vflowopt.arrays import Array, descending_order, device_of, namespace, normalised
from vflowopt.components import Score, Scorer, ScoringContext
from vflowopt.components.greedy import Greedy, choose_greedily
from vflowopt.methods.saliency import Source, by_salient_order, need


class MMR(Scorer):
    """Greedy maximal marginal relevance: attention against cosine similarity.

    Cost: N x N similarities, and for every token that the first stage retains one small step on N numbers, 4 operations
    or a part of one kernel; nothing is read back from the device.

    Attributes:
        relevance: lambda; 1 ranks by attention alone, 0 chooses what differs most from those chosen before.
        source: whose attention; "auto" is that of the class token where there is one, else the mean over patches.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["mmr"] = "mmr"
    relevance: Annotated[float, Field(ge=0, le=1)] = 0.8
    source: Source = "auto"

    @property
    def needs(self) -> frozenset[str]:
        """See :attr:`Component.needs`."""
        return need(self.source) | {"features"}

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        return self.score_retaining(context, context.layout.tokens)

    def score_retaining(self, context: ScoringContext, count: int) -> Score:
        """See :meth:`Scorer.score_retaining`."""

        def order(attention: Array, features: Array, steps: int) -> Array:
            return relevant_order(attention, features, self.relevance, steps, context.choose_greedily)

        return by_salient_order(context, self.source, count, order)


def relevant_order(
    attention: Array, features: Array, relevance: float, steps: int, greedy: Greedy = choose_greedily
) -> Array:
    """All tokens in the order in which they are chosen.

    Args:
        attention: float32 [tokens], w; at least one token.
        features: float32 [tokens, D].
        relevance: lambda.
        steps: after so many tokens, the others follow by what they are worth beside these.
        greedy: chooses them.

    Returns:
        Indices int64 [tokens].
    """
    xp = namespace(features)
    directions = normalised(features)
    distance = -(1 - relevance) * (directions @ xp.matrix_transpose(directions))
    number = xp.arange(features.shape[0], device=device_of(features))
    distance = xp.where(number[:, None] == number[None, :], -xp.inf, distance)  # what is chosen is not chosen again
    chosen, left = greedy(attention, distance, steps, relevance * scaled(attention))
    return xp.concat([chosen, descending_order(left)[: features.shape[0] - steps]])


def scaled(values: Array) -> Array:
    """Values [tokens] scaled to [0, 1]; all 0 if they are equal."""
    xp = namespace(values)
    least = xp.min(values)
    span = xp.max(values) - least
    return (values - least) / xp.where(span > 0, span, 1.0)
