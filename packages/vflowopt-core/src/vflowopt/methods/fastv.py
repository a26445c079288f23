"""FastV: after the first decoder layers, keep the visual tokens that the prompt's last token attends to.

Chen et al., "An Image is Worth 1/2 Tokens After Layer 2", ECCV 2024, arXiv 2403.06764; code: pkunlp-icler/FastV.

Decoder layers 0 to K - 1 run with all visual tokens. Before layer K, token i is worth the mean over heads h of
A_h[last, i], the attention that it gets from the last token of the prompt in layer K - 1; the share R of lowest worth
is dropped for good. The paper's defaults are K = 2 and R = 50%.

In numbers from 0, as here, this is what the public code does: with ``AGG_LAYER = K`` it takes the attention map that
layer K - 1 has returned when layer K is about to run.

What differs: K is the schedule's stage, and R follows from the average retention (K + (1 - R)(L - K)) / L, so that
methods are compared at equal cost. The public code ranks one image at a fixed place of one sample, and takes it from
eager attention of all layers; here every image of every sample is ranked by itself, from one row of one layer.
"""

from typing import Literal

from vflowopt.arrays import Array
from vflowopt.components.stage_scoring import StageContext, StageScorer


class FastV(StageScorer):
    """Attention received from the prompt's last token in the layer before the stage, mean over heads."""

    name: Literal["fastv"] = "fastv"

    def rescore(self, context: StageContext) -> Array:
        """See :meth:`StageScorer.rescore`."""
        return context.received(context.last)

    def default_stages(self, num_layers: int) -> tuple[int, ...]:  # noqa: ARG002
        """K = 2, whatever the depth."""
        return (2,)
