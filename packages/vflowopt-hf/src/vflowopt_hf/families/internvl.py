"""InternVL (transformers' own classes): InternViT tower with a class token, pixel shuffle, Qwen2 or Llama decoder.

An image is tiled to crops, the thumbnail last. Upstream's inputs are the crops of all images in one row; which of them
make an image is told by the prompt alone, where the placeholders of an image follow each other without a gap: such a
run is a unit. Tiles are token grids of their own, as nothing tells how they are arranged. Video frames reach the model
as images of one crop, each in a run of its own after its number in words, so every frame is a unit.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from vflowopt.arrays import HostInts
from vflowopt_hf.families.crops import crop_units, placeholder_runs
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.feature_layer import last_used_layer
from vflowopt_hf.pixels import PixelStatistics


class InternVL(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "internvl"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    class_tokens: ClassVar[int] = 1

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the tower layer that the projector uses; queries and keys are observed after their norm.

        Raises:
            UnsupportedModelError: the projector uses the tower's embedding.
        """
        layers = model.model.vision_tower.encoder.layer
        attention: nn.Module = last_used_layer(layers, model.config.vision_feature_layer).attention
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One per crop; parts of an image."""
        patch = int(model.config.vision_config.patch_size[0])
        return list(crop_units(arguments["pixel_values"], patch, partial(_shuffle, model)))

    def tokens_per_unit(self, model: Any, modality: str, ids: HostInts) -> Sequence[int]:  # noqa: ARG002
        """An image is a run of placeholders."""
        lengths: list[int] = placeholder_runs(ids, model.config.image_token_id)[1].tolist()
        return lengths


class QianfanOCR(InternVL):
    """Qianfan-OCR: the same with a Qwen3 decoder; the layers of its tower have another name."""

    name: ClassVar[str] = "qianfan-ocr"

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the tower layer that the projector uses.

        Raises:
            UnsupportedModelError: the projector uses the tower's embedding.
        """
        layers = model.model.vision_tower.layers
        attention: nn.Module = last_used_layer(layers, model.config.vision_feature_layer).attention
        return attention


def _shuffle(model: Any, patch_map: Tensor) -> Tensor:
    """[1, patches] -> [N, members]."""
    side = round(patch_map.shape[1] ** 0.5)
    shuffled: Tensor = model.model.pixel_shuffle(
        patch_map.reshape(1, side, side, 1), scale_factor=model.config.downsample_ratio
    )
    return shuffled.flatten(0, 2)
