"""VisionZip: dominant tokens by class attention, all others merged into a few contextual ones.

Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR 2025, arXiv 2412.04467;
code: dvlab-research/VisionZip.

Dominant tokens are those that the class token attends to most, or, in towers without one, those that receive most
attention on average. Of the R tokens that remain, in prompt order, every (R // C)-th is one of C contextual targets.
Every other one joins the target whose key is most similar, and a contextual token is the mean of its target and those
that joined it:

    target(i) = argmax_c cos(k_i, k_c),    contextual_c = mean of x_i over c and all i with target(i) = c

with the keys k of the observed layer, averaged over heads. Of 64 tokens, 54 are dominant and 10 contextual; this is the
ratio of all settings in the paper.

Where this differs from the public code:

- It compresses every crop by itself to a fixed number. Here the tokens of a unit compete, so that the count is exact
  also where crops are unpadded or pooled; keys go from patches to tokens as the features do.
- It merges hidden states of the tower, the projector comes after. Here the tokens that enter the decoder are merged.
- It adds the mean of those that joined to the target instead of averaging over both, which the paper describes.
- It puts contextual tokens after the dominant ones. Here they stay in the place of their target.
- It counts the class token among the dominant ones; the models here make no visual token of it.
"""

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from vflowopt.arrays import Array, descending_order, device_of, inverse_permutation, namespace, normalised, pick
from vflowopt.components import ContextRecycler, Merge, Score, Scorer, ScoringContext


class ContextualTokens(ContextRecycler):
    """Keep the most important tokens, and merge all others into contextual ones.

    Attributes:
        contextual: share of contextual tokens among what is retained, separators aside.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["visionzip"] = "visionzip"
    contextual: Annotated[float, Field(ge=0, le=1)] = 10 / 64

    @property
    def needs(self) -> frozenset[str]:
        """See :attr:`Component.needs`."""
        return frozenset({"keys"})

    def merge_unit(self, importance: Array, context: ScoringContext, count: int) -> Merge:
        """See :meth:`Recycler.merge_unit`. Shapes depend on the layout only, so nothing leaves the device."""
        layout = context.layout
        xp = namespace(importance)
        targets = int(np.floor(self.contextual * count + 0.5))
        kept = inverse_permutation(descending_order(importance)) < count - targets
        token = xp.arange(layout.tokens, device=device_of(importance))
        if not targets:
            return Merge(kept, xp.where(kept, token, -1), xp.astype(kept, importance.dtype))
        left = layout.tokens - count + targets
        number = xp.arange(targets, device=device_of(importance))
        target = pick(xp.argsort(xp.astype(kept, xp.uint8), stable=True), number * max(1, left // targets))
        keys = normalised(token_keys(context))
        similarity = keys @ xp.matrix_transpose(pick(keys, target))
        is_target = token[:, None] == target[None, :]
        slot = xp.argmax(xp.where(is_target, xp.inf, similarity), axis=1)
        chosen = (slot[:, None] == number[None, :]) & ~kept[:, None]
        share = 1 / xp.sum(xp.astype(chosen, importance.dtype), axis=0)
        return Merge(
            retained=kept | xp.any(is_target, axis=1),
            anchor=xp.where(kept, token, pick(target, slot)),
            weight=xp.where(kept, xp.ones_like(importance), pick(share, slot)),
        )


class VisionZip(Scorer):
    """Rank by attention in the vision tower, as VisionZip finds dominant tokens; one stage before the LLM.

    Attributes:
        source: "class" ranks by the attention of the class token; "mean" by the mean attention received from all
            patches, for vision towers without a class token.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["visionzip"] = "visionzip"
    source: Literal["class", "mean"] = "class"

    @property
    def needs(self) -> frozenset[str]:
        """See :attr:`Component.needs`."""
        return frozenset({"class-attention"} if self.source == "class" else {"attention"})

    @property
    def usual_recycler(self) -> ContextualTokens:
        """Contextual tokens."""
        return ContextualTokens()

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        if self.source == "class":
            return Score(context.to_tokens(context.class_attention), {})
        received = context.attention.received()
        return Score(context.to_tokens(received / received.shape[-1]), {})


def token_keys(context: ScoringContext) -> Array:
    """Keys of the visual tokens, taken there from the patches like the features: float32 [N, head_dim]."""
    keys = context.keys
    components = [context.to_tokens(keys[..., component]) for component in range(keys.shape[-1])]
    return namespace(keys).stack(components, axis=-1)
