"""Gemma 3: SigLIP tower, average pooling to a fixed number of tokens, decoder with sliding-window layers; images.

The tokens of one image attend to each other in both directions at prefill (upstream's masks, by ``token_type_ids``).
Pan-and-scan crops reach the model as further images, each in a place of its own in the prompt, and nothing in the
inputs tells whose crops they are: every crop is a unit of its own, scored and pruned like an image.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from vflowopt import TokenLayout
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics, image_entropy


class Gemma3(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "gemma3"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer."""
        tower = model.model.vision_tower
        attention: nn.Module = getattr(tower, "vision_model", tower).encoder.layers[-1].self_attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One unit per image or pan-and-scan crop."""
        return list(_units(model, arguments["pixel_values"]))


def _units(model: Any, pixels: Tensor) -> Iterator[Unit]:
    projector, patch = model.model.multi_modal_projector, model.config.vision_config.patch_size
    side = projector.patches_per_image // projector.kernel_size
    for view in range(len(pixels)):
        yield Unit(
            views=slice(view, view + 1),
            layout=TokenLayout(np.indices((1, side, side)).reshape(3, -1).T),
            to_tokens=partial(_pool, projector),
            entropy=partial(image_entropy, pixels[view : view + 1], patch),
        )


def _pool(projector: Any, patch_map: Tensor) -> Tensor:
    """[1, patches] -> [N] through the projector's average pooling."""
    side = projector.patches_per_image
    tokens: Tensor = projector.avg_pool(patch_map.reshape(1, side, side)).flatten()
    return tokens
