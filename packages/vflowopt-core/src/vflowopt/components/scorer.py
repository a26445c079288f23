"""Calibrated attention plus patch entropy (paper Eq. 1, 2, 4), and diversity: the method's own importance."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vflowopt.arrays import Array, namespace
from vflowopt.components.attention import AttentionSource
from vflowopt.components.context import ScoringContext
from vflowopt.components.contract import Score, Scorer
from vflowopt.components.diversity import diverse_importance


def calibration_patches(received: Array, threshold: float) -> Array:
    """K, the patches whose attention rows count (Eq. 1-2).

    Args:
        received: float32 [views, patches], attention received from all queries.
        threshold: t; a patch is in K if it receives more than t times the view's mean.

    Returns:
        bool [views, patches]. A view in which no patch passes keeps all of its patches.
    """
    xp = namespace(received)
    selected = received > threshold * xp.mean(received, axis=-1, keepdims=True)
    return selected | ~xp.any(selected, axis=-1, keepdims=True)


def calibrated_attention(source: AttentionSource, threshold: float) -> tuple[Array, Array]:
    """Attention that each patch receives from the patches of K (first term of Eq. 4).

    Returns:
        float32 [views, patches], ``sum over k in K of A[k, i]``, and K itself, bool [views, patches].
    """
    received = source.received()
    if threshold == 0:  # plain mean attention: every query counts
        return received, namespace(received).ones_like(received, dtype=namespace(received).bool)
    selected = calibration_patches(received, threshold)
    # Fewer than patches / t patches can receive more than t times the mean, except where the view fell back to all of
    # them: its second pass is the first.
    patches = received.shape[-1]
    xp = namespace(received)
    fell_back = xp.all(selected, axis=-1, keepdims=True)
    restricted = source.received(selected, at_most=math.ceil(min(patches, patches / threshold)))
    return xp.where(fell_back, received, restricted), selected


def entropy_term(entropy: Array) -> Array:
    """Softmax of patch entropy over the patches of each view (second term of Eq. 4): float32 [views, patches]."""
    xp = namespace(entropy)
    exponent = xp.exp(entropy - xp.max(entropy, axis=-1, keepdims=True))
    return exponent / xp.sum(exponent, axis=-1, keepdims=True)


class CalibratedAttention(Scorer):
    """I_i = sum_{k in K} A_ki + alpha * softmax_i(H), taken from patches to visual tokens (paper Eq. 4).

    Attributes:
        threshold: t of Eq. 1, in multiples of the mean attention received; 0 is plain mean attention.
        entropy_weight: alpha of Eq. 4; 0 needs no pixels.
        diversity: 0 is the paper's importance; up to 1, tokens that resemble a more important one are worth less
            (:mod:`vflowopt.components.diversity`, not in the paper).
    """

    vectorises: ClassVar[bool] = True
    name: Literal["calibrated-attention"] = "calibrated-attention"
    threshold: Annotated[float, Field(ge=0)] = 0.0
    entropy_weight: Annotated[float, Field(ge=0)] = 0.0
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0

    @property
    def needs(self) -> frozenset[str]:
        """Attention always; pixels only for a positive entropy weight, embeddings only for diversity."""
        wanted = {"attention": True, "entropy": self.entropy_weight > 0, "features": self.diversity > 0}
        return frozenset(name for name, is_wanted in wanted.items() if is_wanted)

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`; reports the size of K per view as ``calibration_patches``."""
        patch_map, selected = calibrated_attention(context.attention, self.threshold)
        if self.entropy_weight:
            patch_map = patch_map + self.entropy_weight * entropy_term(context.entropy)
        importance = context.to_tokens(patch_map)
        if self.diversity:
            structural = context.layout.structural_like(importance)
            importance = diverse_importance(importance, context.features, structural, self.diversity)
        xp = namespace(patch_map)
        sizes = xp.sum(xp.astype(selected, xp.int64), axis=-1)
        return Score(importance=importance, details={"calibration_patches": sizes})
