"""DeepSeek-VL: SigLIP tower, every patch a visual token, Llama decoder; images, several images.

The processor pads an image to a square and resizes it to the tower's size: an image is a view. An aligner of two linear
layers makes the features, so nothing is merged and nothing changes its place.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from vflowopt import TokenLayout
from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.adapter import TransformersAdapter
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics, image_entropy


class DeepseekVL(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "deepseek-vl"
    repeats_placeholders: ClassVar[bool] = True
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer.

        Raises:
            UnsupportedModelError: the tower is not SigLIP.
        """
        tower = model.config.vision_config.model_type
        if tower != "siglip_vision_model":
            raise UnsupportedModelError(
                f"this {type(model).__name__} has a vision tower of type {tower!r}; the {self.name} adapter knows "
                f"'siglip_vision_model'"
            )
        attention: nn.Module = model.model.vision_model.encoder.layers[-1].self_attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One unit per image."""
        return list(_units(model.config.vision_config.patch_size, arguments["pixel_values"]))


def _units(patch: int, pixels: Tensor) -> Iterator[Unit]:
    rows, columns = (side // patch for side in pixels.shape[-2:])
    for view in range(len(pixels)):
        yield Unit(
            views=slice(view, view + 1),
            layout=TokenLayout(np.indices((1, rows, columns)).reshape(3, -1).T),
            to_tokens=_as_it_is,
            entropy=partial(image_entropy, pixels[view : view + 1], patch),
        )


def _as_it_is(patch_map: Tensor) -> Tensor:
    """[1, patches] -> [N]: every patch is a visual token."""
    return patch_map[0]


deepseek_vl = TransformersAdapter(DeepseekVL())
