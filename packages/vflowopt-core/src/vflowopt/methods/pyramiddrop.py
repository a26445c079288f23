"""PyramidDrop: drop part of the visual tokens after every quarter of the decoder, by the instruction's attention.

Xing et al., "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction",
CVPR 2025, arXiv 2410.17247; code: Cooperx521/PyramidDrop.

The decoder's L layers form four stages. At the end of each of the first three, before layers L/4, L/2 and 3L/4 (8, 16
and 24 of 32), the tokens that are left are ranked by the attention that they get from the last token of the
instruction, mean over heads, and the share lambda of them stays. The paper's default is lambda = 0.5: 46.9% of the
tokens in the average layer.

What differs: lambda follows from the average retention, (1 + lambda + lambda^2 + lambda^3) / 4 for L divisible by 4.
Counts are rounded by this library's rule, the public code rounds down. The paper ranks by the attention of a stage's
last layer, and so does this; the public code computes an extra attention map from the projections of the layer that
comes next.
"""

from typing import Literal

from vflowopt.arrays import Array
from vflowopt.components.stage_scoring import StageContext, StageScorer


class PyramidDrop(StageScorer):
    """Attention received from the prompt's last token in the layer before each stage, mean over heads."""

    name: Literal["pyramiddrop"] = "pyramiddrop"

    def rescore(self, context: StageContext) -> Array:
        """See :meth:`StageScorer.rescore`."""
        return context.received(context.last)

    def default_stages(self, num_layers: int) -> tuple[int, ...]:
        """Before layers L/4, L/2 and 3L/4, rounded down; never before the LLM."""
        return tuple(dict.fromkeys(max(1, quarter * num_layers // 4) for quarter in (1, 2, 3)))
