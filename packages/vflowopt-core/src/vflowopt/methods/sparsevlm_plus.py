"""SparseVLM+: SparseVLM's raters, without what nearness alone earns, by the heads that look at the image most.

Zhang et al., "SparseVLM+: Visual Token Sparsification with Improved Text-Visual Attention Pattern"; of the paper we
found no public text. What is here is version 2.0 of the public code, Gumpest/SparseVLMs (``USE_VERSION=2_0``).

Rotary positions let a query attend the more to a key the nearer it is, whatever both hold, so that the last rows of an
image are favoured. At each stage, A_h[t, v] being what rater t gives to visual token v in the layer before and c the
cosine similarity of vectors of ones that are turned by the positions of t and v,

    S_h[v]               =  sum over raters t of  A_h[t, v] / c(t, v)
    importance of v      =  mean of S_h[v] over the 14 of 32 heads h whose sum over v of S_h[v] is largest

Raters and stages are those of :mod:`vflowopt.methods.sparsevlm`; nothing is recycled.

What differs: the public code takes 14 heads of however many there are, and fixed numbers of tokens; its c is larger by
the root of the head's dimensions, which changes no order. It divides by c also where that is close to 0 or below, as
between rows that are far apart in heads of few dimensions; so does this, but by no less than float32 tells from 0.
"""

from typing import Annotated, Literal

from pydantic import Field

from vflowopt.arrays import Array, descending_order, namespace, pick
from vflowopt.components.stage_scoring import StageContext, StageScorer
from vflowopt.methods.sparsevlm import SparseVLM, raters


class SparseVLMPlus(StageScorer):
    """Attention received from the raters, corrected for rotary nearness, mean over the heads that see the image most.

    Attributes:
        voters: share of the heads that vote, in (0, 1]; at least one does.
    """

    name: Literal["sparsevlm-plus"] = "sparsevlm-plus"
    voters: Annotated[float, Field(gt=0, le=1)] = 14 / 32

    def rescore(self, context: StageContext) -> Array:
        """See :meth:`StageScorer.rescore`."""
        chosen, closeness = raters(context), context.rotary_closeness(context.text)
        xp = namespace(closeness)
        least = xp.finfo(closeness.dtype).eps
        divisor = xp.where(xp.abs(closeness) < least, least, closeness)
        received = context.received_by_head(context.text, chosen[:, None] / divisor)
        given = xp.sum(xp.where(context.layout.structural_like(received), 0.0, received), axis=1)
        voting = max(1, round(self.voters * received.shape[0]))
        return xp.mean(pick(received, descending_order(given)[:voting]), axis=0)

    def default_stages(self, num_layers: int) -> tuple[int, ...]:
        """Those of SparseVLM."""
        return SparseVLM().default_stages(num_layers)
