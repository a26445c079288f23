"""Perception LM: a Perception Encoder of timm, average pooling, Llama decoder; tiled images, several images.

Upstream's inputs are the tiles of each image, the whole image first; all images of a call have the same number. Nothing
tells how tiles are arranged: they are token grids of their own. Upstream encodes videos by the function for images, so
that nothing tells them apart: they are refused.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import nn

from vflowopt_hf.families.merged_patches import merge_views, merged_layout
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics, image_entropy


class PerceptionLM(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "perception-lm"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def class_tokens_of(self, model: Any) -> int:
        """The larger checkpoints have none."""
        return int(model.config.vision_use_cls_token)

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer."""
        attention: nn.Module = model.model.vision_tower.timm_model.blocks[-1].attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One unit per image."""
        images, merge = arguments["pixel_values"], int(model.config.projector_pooling_ratio)
        patch, tiles = int(model.model.vision_tower.timm_model.patch_embed.patch_size[0]), images.shape[1]
        rows, columns = (side // patch for side in images.shape[-2:])
        return [
            Unit(
                views=slice(number * tiles, (number + 1) * tiles),
                layout=merged_layout(tiles, rows, columns, merge),
                to_tokens=merge_views(merge, rows, columns),
                entropy=partial(image_entropy, image, patch),
            )
            for number, image in enumerate(images)
        ]
