"""Families whose vision tower is SigLIP, or any that is named like it, and whose projector takes its last layer."""

from typing import Any, ClassVar

from torch import nn

from vflowopt_hf.family import Family
from vflowopt_hf.pixels import PixelStatistics


class SiglipFamily(Family):
    """A tower with the attention of its last layer observed; pixels from -1 to 1."""

    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer."""
        tower = model.model.vision_tower
        attention: nn.Module = getattr(tower, "vision_model", tower).encoder.layers[-1].self_attn
        return attention
