"""Qwen3-VL, dense and mixture of experts: Qwen2-VL's layout, and visual features at several depths of the decoder.

Earlier features of the tower are added to the visual tokens' hidden states after the first decoder layers (DeepStack);
the prompt holds one run of placeholders per temporal slice of a video, with a timestamp before each.
"""

from typing import Any, ClassVar

from vflowopt_hf.family import LayerResiduals
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_qwen.qwen2_vl import Qwen2VL


class Qwen3VL(Qwen2VL):
    """See the module's docstring."""

    name: ClassVar[str] = "qwen3-vl"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def take_residuals(self, arguments: dict[str, Any]) -> LayerResiduals | None:
        """``deepstack_visual_embeds`` at ``visual_pos_masks``."""
        rows, values = arguments.pop("visual_pos_masks", None), arguments.pop("deepstack_visual_embeds", None)
        return None if values is None else LayerResiduals(rows, values)
