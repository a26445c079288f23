"""GLM-4.1V, GLM-4.5V, GLM-4.6V and GLM-OCR: native-resolution tower with 2 x 2 merging, GLM-4 decoder; images, video.

Upstream marks the tokens of videos as it marks those of images, and so takes no image beside a video in one forward.
A video's prompt holds one run of placeholders per temporal slice, with a timestamp after each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from vflowopt_hf.families.block_patches import block_units
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics


class Glm4V(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "glm4v"
    repeats_placeholders: ClassVar[bool] = True
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )

    def placeholder_ids(self, model: Any) -> Mapping[str, int]:
        """The image token, for both modalities."""
        return dict.fromkeys(("image", "video"), model.config.image_token_id)

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last vision block."""
        attention: nn.Module = model.model.visual.blocks[-1].attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """One unit per image or video.

        Raises:
            InputError: the grid sizes that the processor returns beside the pixels are missing.
        """
        return block_units(model.config.vision_config, modality, arguments)
