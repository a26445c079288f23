"""PaddleOCR-VL: native-resolution tower, 2 x 2 merging in the projector, Ernie 4.5 decoder; images, several images.

Pixels arrive as flat patches row by row. The decoder's rotary positions are multimodal.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from vflowopt_hf.families.row_patches import row_units
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics


class PaddleOCRVL(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "paddleocr-vl"
    repeats_placeholders: ClassVar[bool] = True
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )

    def placeholder_ids(self, model: Any) -> Mapping[str, int]:
        """Images only; upstream encodes no videos, though its configuration has a token for them."""
        return {"image": model.config.image_token_id}

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer."""
        attention: nn.Module = model.model.visual.vision_model.encoder.layers[-1].self_attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """One unit per image.

        Raises:
            InputError: the grid sizes that the processor returns beside the pixels are missing.
        """
        vision = model.config.vision_config
        return row_units(int(vision.patch_size), int(vision.spatial_merge_size), modality, arguments)
