"""SCOPE: tokens that stand out and cover what those chosen before them do not.

Deng et al., "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodel LLMs", NeurIPS 2025, arXiv
2510.24214; code: kinredon/SCOPE.

Tokens are chosen greedily, once, before the LLM. A set of tokens covers token j by its largest cosine similarity to one
of them, at least 0. With s the attention of the class token, the next token is

    argmax_i  s_i^alpha * sum over all j of max(0, cos(x_j, x_i) - covered_j)

Where this differs from the public code:

- x are the embeddings as they enter the decoder, so that any family offers them; there, outputs of the vision tower.
- Towers without a class token rank by the mean attention received, over the patches of the observed layer.
- Every crop is compressed there by itself to the same number. Here the tokens of a unit compete, so that the count is
  exact also where crops are unpadded or pooled.
- Structural tokens take no part; of equally good tokens the one with the lower index is chosen.
- There, every step computes the gain of every token. A gain never grows, so on a CPU only those are computed that may
  be the largest; the choice is the same.
"""

from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from vflowopt.arrays import Array, asarray_like, descending_order, device_of, namespace, normalised, pick, to_numpy
from vflowopt.components import Score, Scorer, ScoringContext
from vflowopt.methods.saliency import Source, by_salient_order, need

_TOGETHER = 16
"""Gains that are computed at once on a CPU."""


class SCOPE(Scorer):
    """Greedy saliency times gain in coverage.

    Cost: N x N similarities. On a CPU, for every token that the first stage retains a few gains of N operations each;
    elsewhere all N of them, in 4 operations on N x N numbers, nothing read back from the device.

    Attributes:
        alpha: power of the attention; 0 looks at coverage alone.
        source: whose attention; "auto" is that of the class token where there is one, else the mean over patches.
    """

    name: Literal["scope"] = "scope"
    alpha: Annotated[float, Field(ge=0)] = 1.0
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
            return covering_order(attention**self.alpha, features, steps)

        return by_salient_order(context, self.source, count, order)


def covering_order(saliency: Array, features: Array, steps: int) -> Array:
    """All tokens in the order in which they are chosen.

    Args:
        saliency: float32 [tokens], factor of the gain in coverage, at least 0; at least one token.
        features: float32 [tokens, D].
        steps: after so many tokens, the others follow by what they would gain beside these.

    Returns:
        Indices int64 [tokens].
    """
    xp = namespace(features)
    directions = normalised(features)
    similarity = directions @ xp.matrix_transpose(directions)
    if str(device_of(features)) == "cpu":
        order = _chosen_lazily(to_numpy(saliency), to_numpy(similarity), steps)
        return asarray_like(order, features)
    return _chosen(saliency, similarity, steps)


def _chosen(saliency: Array, similarity: Array, steps: int) -> Array:
    """Every gain at every step, without a look at what was chosen."""
    xp = namespace(similarity)
    number = xp.arange(similarity.shape[0], device=device_of(similarity))
    covered, order = xp.zeros_like(saliency), []
    score = saliency * xp.sum(xp.clip(similarity, 0.0, None), axis=1)
    for _ in range(steps):
        chosen = xp.argmax(score, axis=0, keepdims=True)
        order.append(chosen)
        covered = xp.maximum(covered, pick(similarity, chosen)[0, :])
        gain = xp.sum(xp.clip(similarity - covered[None, :], 0.0, None), axis=1)
        score = xp.where((score == -xp.inf) | (number == chosen), -xp.inf, saliency * gain)
    return xp.concat([*order, descending_order(score)[: similarity.shape[0] - steps]])


def _chosen_lazily(saliency: npt.NDArray[Any], similarity: npt.NDArray[Any], steps: int) -> npt.NDArray[np.int64]:
    """The same on the host: gains are bounds of later gains, and those that are too low stay as they are."""
    tokens = len(saliency)
    covered, order = np.zeros_like(saliency), np.empty(steps, dtype=np.int64)

    def gains(rows: Any) -> npt.NDArray[Any]:
        gain: npt.NDArray[Any] = np.maximum(similarity[rows] - covered, 0).sum(axis=1)
        gain *= saliency[rows]
        return gain

    bound, width = gains(slice(None)), min(_TOGETHER, tokens)
    for step in range(steps):
        known = bound == -np.inf  # what is chosen is not looked at again
        while not known[best := int(bound.argmax())]:
            rows = np.argpartition(np.where(known, np.inf, -bound), width - 1)[:width]
            rows = np.append(rows[~known[rows]], best)
            bound[rows], known[rows] = gains(rows), True
        order[step], bound[best] = best, -np.inf
        np.maximum(covered, similarity[best], out=covered)
    left = np.where(bound == -np.inf, bound, gains(slice(None)))
    return np.concatenate([order, np.argsort(-left, kind="stable")[: tokens - steps]])
