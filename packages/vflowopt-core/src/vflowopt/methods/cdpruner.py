"""CDPruner: tokens that are diverse given the question, by a determinantal point process.

Zhang et al., "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs", NeurIPS
2025, arXiv 2506.10967; code: Theia-4869/CDPruner.

With the relevance r_i of token i to the question, scaled to [0, 1], and the embeddings x as they enter the decoder, a
set S of tokens is worth the determinant of the kernel's rows and columns S,

    L_ij = r_i cos(x_i, x_j) r_j

and S grows greedily, once, before the LLM, each time by the token that raises log det L_S most (Chen et al., "Fast
Greedy MAP Inference for Determinantal Point Process", NeurIPS 2018).

Where this differs from the public code:

- There r is the similarity of CLIP's embeddings of patches and question, for which a text tower is loaded besides, and
  its sign is turned, as CLIP's patches are most like texts that they do not show. Here r is the mean cosine similarity
  of x_i to the embeddings of the prompt's text after the image, which the decoder gets anyway; ``negative`` turns it.
- All text after the image counts, the chat template's too.
- The relevance is scaled per unit; there, over the whole batch.
- Once the tokens chosen span all dimensions of x, all determinants are 0. There rounding decides, here relevance.
- Structural tokens take no part; of equally good tokens the one with the lower index is chosen.
"""

from typing import ClassVar, Literal

from vflowopt.arrays import Array, descending_order, device_of, namespace, normalised, pick
from vflowopt.components import Score, Scorer, ScoringContext
from vflowopt.methods.mmr import scaled
from vflowopt.methods.ordering import by_order

_LEAST = 1e-6
"""Relevance of the least relevant token, as in the public code: it is not 0."""

_RESOLUTION = 1e-5
"""Share of a token outside the span of those chosen that is rounding of float32."""


class CDPruner(Scorer):
    """Greedy determinantal point process, conditioned on the question.

    Cost: N x N similarities, and for the k-th token that the first stage retains k N operations, nothing read back
    from the device.

    Attributes:
        negative: whether tokens that are least like the text are the relevant ones.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["cdpruner"] = "cdpruner"
    negative: bool = False

    @property
    def needs(self) -> frozenset[str]:
        """See :attr:`Component.needs`."""
        return frozenset({"features", "text"})

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        return self.score_retaining(context, context.layout.tokens)

    def score_retaining(self, context: ScoringContext, count: int) -> Score:
        """See :meth:`Scorer.score_retaining`."""
        features, xp = context.features, namespace(context.features)

        def choose(tokens: Array, steps: int) -> Array:
            vectors = normalised(pick(features, tokens))
            relevance = vectors @ xp.mean(normalised(context.text), axis=0)
            return conditional_order(scaled(-relevance if self.negative else relevance) + _LEAST, vectors, steps)

        return Score(by_order(context.layout, count, features, choose), {})


def conditional_order(relevance: Array, directions: Array, steps: int) -> Array:
    """All tokens in the order in which they are chosen.

    Args:
        relevance: float32 [tokens], r > 0; at least one token.
        directions: float32 [tokens, D], of length 1 or 0.
        steps: after so many tokens, the others follow by what they would add to these.

    Returns:
        Indices int64 [tokens].
    """
    xp = namespace(directions)
    vectors = relevance[:, None] * directions
    kernel = vectors @ xp.matrix_transpose(vectors)
    whole = xp.sum(vectors * vectors, axis=1)
    least, outside = _RESOLUTION * whole, whole  # squares of what lies outside the span of those chosen
    number = xp.arange(kernel.shape[0], device=device_of(directions))
    within = xp.zeros_like(kernel[:steps, :])  # components along the directions that each step adds to the span
    score, order = whole, []
    for step in range(steps):
        chosen = xp.argmax(score, axis=0, keepdims=True)
        order.append(chosen)
        own, left = pick(within[:step, :], chosen, axis=1), pick(outside, chosen)
        along = pick(kernel, chosen) - xp.matrix_transpose(own) @ within[:step, :]
        is_new = left > pick(least, chosen)
        within[step, :] = xp.where(is_new, along[0, :] / xp.sqrt(xp.where(is_new, left, 1.0)), 0.0)
        outside = outside - within[step, :] ** 2
        score = xp.where((score == -xp.inf) | (number == chosen), -xp.inf, xp.maximum(outside, least))
    return xp.concat([*order, descending_order(score)[: kernel.shape[0] - steps]])
