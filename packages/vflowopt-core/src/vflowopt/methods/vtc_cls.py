"""VTC-CLS: what the class token attends to, over several layers of the vision tower.

Wang et al., "[CLS] Token Tells Everything Needed for Training-free Efficient MLLMs", 2024, arXiv 2412.05819; code:
THU-MIG/VTC-CLS.

Layers attend to different parts of an image, so importance is an ensemble over the last K layers up to the one whose
output the model uses (:mod:`vflowopt.methods.fastervlm` is K = 1). Tokens are ranked once, before the LLM, and those
that are not among the first are dropped:

    I_i = sum over the last K layers l of a_i^l,    a_i^l = mean over heads h of softmax_i(q_cls . k_i / sqrt(d))_h

The public code sums from a layer that is given on its command line, by default the layer numbered 16 (from 0) of CLIP's
24, up to the penultimate one, which LLaVA uses: K = 7 of 23; a remark there names minimum and maximum as other
ensembles.

Where this differs from the public code:

- K is a share of the layers up to the observed one, rounded up, so that a strategy means the same on towers of any
  depth. The default, 0.3, gives the paper's 7 of 23 (and 8 of 24, also from layer 16, where a tower's last layer is
  used).
- That code knows one view per image. Here the tokens of all crops of a unit compete, so that the count is exact also
  where crops are unpadded or pooled.
"""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from vflowopt.arrays import namespace
from vflowopt.components import Score, Scorer, ScoringContext


class VTCCLS(Scorer):
    """Attention of the class token in several layers, taken from patches to visual tokens.

    Attributes:
        depth: share of the vision layers up to the observed one that are ensembled, the last of them; rounded up.
        ensemble: of what the layers say of a patch.
    """

    vectorises: ClassVar[bool] = True
    name: Literal["vtc-cls"] = "vtc-cls"
    depth: Annotated[float, Field(gt=0, le=1)] = 0.3
    ensemble: Literal["sum", "max", "min"] = "sum"

    @property
    def needs(self) -> frozenset[str]:
        """A class token."""
        return frozenset({"class-attention"})

    def class_attention_layers(self, depth: int) -> int:
        """See :meth:`Component.class_attention_layers`."""
        return max(1, math.ceil(self.depth * depth - 1e-9))  # a product such as 0.07 * 100 is a little above 7

    def score(self, context: ScoringContext) -> Score:
        """See :meth:`Scorer.score`."""
        layers = context.class_attentions(self.class_attention_layers(context.vision_depth))
        ensemble = getattr(namespace(layers), self.ensemble)
        return Score(context.to_tokens(ensemble(layers, axis=0)), {})
