"""FasterVLM: the patches that the class token attends to.

Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference Faster", 2024,
arXiv 2412.01818; code: Theia-4869/FasterVLM.

Tokens are ranked once, before the LLM, by what the class token of the vision tower attends to; attention between text
and visual tokens inside the LLM favours late positions, this does not:

    I_i = mean over heads h of softmax_i(q_cls . k_i / sqrt(d))_h

in the penultimate layer of CLIP, the one whose output LLaVA uses; here: in the observed layer. No options.

Where this differs from the public code: that keeps the same number of patches of every crop. Here all tokens of a unit
compete, so that the count is exact also where crops are unpadded or pooled.

With an ensemble over several layers this is VTC-CLS (:mod:`vflowopt.methods.vtc_cls`).
"""

from typing import ClassVar, Literal

from vflowopt.components import Score, Scorer, ScoringContext


class FasterVLM(Scorer):
    """Attention of the class token, mean over heads, taken from patches to visual tokens."""

    vectorises: ClassVar[bool] = True
    name: Literal["fastervlm"] = "fastervlm"

    @property
    def needs(self) -> frozenset[str]:
        """A class token."""
        return frozenset({"class-attention"})

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        return Score(context.to_tokens(context.class_attention), {})
