"""SparseVLM: the text tokens that the image concerns rate the visual tokens, at three depths of the decoder.

Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", ICML 2025,
arXiv 2410.04417; code: Gumpest/SparseVLMs.

Raters are chosen once, by embeddings as they enter the decoder, visual V and those T of the text after the image:
m_t = mean over visual tokens v of softmax_t(V T')_vt, and text token t is a rater if m_t exceeds the mean of m. At each
stage a visual token is worth the mean over raters, and over heads, of the attention that it gets from them in the layer
before. The public code ranks by layers 2, 6 and 15 of 32 and prunes after each: before layers 3, 7 and 16.

The best of the pruned tokens are clustered into new ones: :mod:`vflowopt.methods.sparsevlm_recycler`.

What differs: this is the public code's form with fixed numbers of tokens per stage; for those that the paper derives
from the rank of the raters' attention see :mod:`vflowopt.methods.sparsevlm_adaptive`. The public code has one list of
numbers for each of four budgets; here every stage keeps the same share, such that the average retention is met. Row
separators are no visual tokens in the choice of raters.
"""

from typing import Literal

from vflowopt.arrays import Array, namespace
from vflowopt.components.stage_scoring import StageContext, StageScorer
from vflowopt.methods.sparsevlm_recycler import DensityPeaks


class SparseVLM(StageScorer):
    """Attention received from the raters in the layer before each stage, mean over heads and raters."""

    name: Literal["sparsevlm"] = "sparsevlm"

    @property
    def usual_recycler(self) -> DensityPeaks:
        """Clusters of pruned tokens."""
        return DensityPeaks()

    def rescore(self, context: StageContext) -> Array:
        """See :meth:`StageScorer.rescore`."""
        chosen = raters(context)
        return context.received(context.text, chosen / namespace(chosen).sum(chosen))

    def default_stages(self, num_layers: int) -> tuple[int, ...]:
        """Before layers 3, 7 and 16 of 32, and in proportion; never before the LLM."""
        return tuple(dict.fromkeys(max(1, round(layer * num_layers / 32)) for layer in (3, 7, 16)))


def raters(context: StageContext) -> Array:
    """Which text tokens rate: float32 [texts], 1 for raters; for all if none stands out."""
    visual = context.embeddings(context.visual[~context.layout.structural])
    xp = namespace(visual)
    scores = visual @ context.embeddings(context.text).T
    weights = xp.exp(scores - xp.max(scores, axis=1, keepdims=True))
    relevance = xp.mean(weights / xp.sum(weights, axis=1, keepdims=True), axis=0)
    above = relevance > xp.mean(relevance)
    return xp.astype(above | ~xp.any(above), xp.float32)
