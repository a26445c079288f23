"""Aya Vision: SigLIP tower, 2 x 2 pixel shuffle, Cohere 2 decoder with sliding-window layers; tiled images.

Upstream's inputs are the tiles of all images in one row, the whole image last. The prompt names each tile before its
placeholders; which tiles make an image is told by these names alone. They are text, and always retained. Tiles are
token grids of their own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vflowopt.arrays import HostInts
from vflowopt_hf.families.crops import lengths_by_name
from vflowopt_hf.families.llava_family import LlavaFamily
from vflowopt_hf.families.pictures import picture_units
from vflowopt_hf.family import Unit
from vflowopt_hf.pixels import PixelStatistics


class AyaVision(LlavaFamily):
    """See the module's docstring."""

    name: ClassVar[str] = "aya-vision"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One per tile; parts of an image."""
        patch = int(model.config.vision_config.patch_size)
        return picture_units(arguments["pixel_values"], patch, int(model.config.downsample_factor))

    def tokens_per_unit(self, model: Any, modality: str, ids: HostInts) -> Sequence[int]:  # noqa: ARG002
        """An image reaches to its global tile."""
        return lengths_by_name(ids, model.config.image_token_id)
