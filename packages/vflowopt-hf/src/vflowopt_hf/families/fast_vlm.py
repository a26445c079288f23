"""FastVLM: a FastViTHD tower of timm, Qwen2 decoder; images of one size, several images.

The tower is one of convolutions whose last stages attend: to places of 64 x 64 pixels, each of which makes a visual
token. What convolutions before and behind mix into its neighbours counts for the place itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from vflowopt_hf.families.pictures import picture_units
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics


class FastVLM(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "fast-vlm"
    repeats_placeholders: ClassVar[bool] = True
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower block."""
        attention: nn.Module = model.model.vision_tower.timm_model.stages[-1].blocks[-1].token_mixer
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One unit per image."""
        tower = model.model.vision_tower.timm_model
        return picture_units(arguments["pixel_values"], int(tower.feature_info[-1]["reduction"]))
