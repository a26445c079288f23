"""Mistral 3: Pixtral tower for images of any size, 2 x 2 patch merger, Mistral decoder; images, several images.

The tower packs the patches of all images of a call into one sequence and confines attention to one image: an image is
a view. Pixels are padded to the largest image of the call, ``image_sizes`` says what is real. In the prompt a separator
follows each row of visual tokens; separators are text, and always retained.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from vflowopt.errors import InputError
from vflowopt_hf.families.pictures import picture_units
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.feature_layer import last_used_layer
from vflowopt_hf.pixels import PixelStatistics


class Mistral3(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "mistral3"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer that the projector uses.

        Raises:
            UnsupportedModelError: the projector uses no layer with attention.
        """
        layers = model.model.vision_tower.transformer.layers
        attention: nn.Module = last_used_layer(layers, model.config.vision_feature_layer).attention
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One unit per image.

        Raises:
            InputError: the sizes that the processor returns beside the pixels are missing.
        """
        sizes = arguments.get("image_sizes")
        if sizes is None:
            raise InputError("image_sizes is missing; pass everything that the processor returned")
        patch = int(model.config.vision_config.patch_size)
        real = zip(arguments["pixel_values"], torch.as_tensor(sizes).tolist(), strict=True)
        pictures = (pixels[:, : height // patch * patch, : width // patch * patch] for pixels, (height, width) in real)
        return picture_units(pictures, patch, int(model.config.spatial_merge_size))


class LightOnOCR(Mistral3):
    """LightOnOCR: the same with a Qwen3 decoder, and the tower's last layer always."""

    name: ClassVar[str] = "lighton-ocr"

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer."""
        attention: nn.Module = model.model.vision_encoder.transformer.layers[-1].attention
        return attention
