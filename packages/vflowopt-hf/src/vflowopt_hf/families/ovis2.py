"""Ovis2: AIMv2 tower, k x k patches to a word of a visual vocabulary, Qwen2 decoder; tiled images.

Upstream's inputs are the tiles of all images in one row, the whole image first. In the prompt one separator stands
between the tiles of an image, and images stand between markers: tiles one separator apart make an image. Markers and
separators, which have embeddings of the visual vocabulary, are no placeholders: they are always retained, and do not
count in N. Tiles are token grids of their own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from vflowopt.arrays import HostInts
from vflowopt_hf.families.crops import lengths_by_gap
from vflowopt_hf.families.pictures import picture_units
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics


class Ovis2(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "ovis2"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer."""
        attention: nn.Module = model.model.vision_tower.transformer.encoder.layers[-1].attention
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One per tile; parts of an image."""
        vision = model.config.vision_config
        return picture_units(arguments["pixel_values"], int(vision.patch_size), int(vision.hidden_stride))

    def tokens_per_unit(self, model: Any, modality: str, ids: HostInts) -> Sequence[int]:  # noqa: ARG002
        """An image is a chain of tiles with one separator between them."""
        return lengths_by_gap(ids, model.config.image_token_id)
