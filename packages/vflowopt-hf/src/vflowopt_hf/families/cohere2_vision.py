"""Cohere 2 Vision (Command A Vision): SigLIP tower, 2 x 2 pixel shuffle, Cohere 2 decoder; tiled images.

Upstream's inputs are the tiles of all images in one row, the whole image last. In the prompt a separator follows each
tile, and images stand between markers: tiles one separator apart make an image. Separators are text, and always
retained. Tiles are token grids of their own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vflowopt.arrays import HostInts
from vflowopt_hf.families.crops import lengths_by_gap
from vflowopt_hf.families.pictures import picture_units
from vflowopt_hf.families.siglip_tower import SiglipFamily
from vflowopt_hf.family import Unit


class Cohere2Vision(SiglipFamily):
    """See the module's docstring."""

    name: ClassVar[str] = "cohere2-vision"

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One per tile; parts of an image."""
        patch = int(model.config.vision_config.patch_size)
        return picture_units(arguments["pixel_values"], patch, int(model.config.downsample_factor))

    def tokens_per_unit(self, model: Any, modality: str, ids: HostInts) -> Sequence[int]:  # noqa: ARG002
        """An image is a chain of tiles with one separator between them."""
        return lengths_by_gap(ids, model.config.image_token_id)
