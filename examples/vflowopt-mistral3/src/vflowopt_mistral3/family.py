"""Mistral 3: Pixtral tower for images of any size, 2 x 2 patch merger, Mistral decoder; images, several images.

The tower packs the patches of all images of a call into one sequence and confines attention to one image: an image is
a view. Pixels are padded to the largest image of the call, ``image_sizes`` says what is real. In the prompt a separator
follows each row of visual tokens; separators are text, and always retained.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from vflowopt import TokenLayout
from vflowopt.errors import InputError
from vflowopt_hf.adapter import TransformersAdapter
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.feature_layer import last_used_layer
from vflowopt_hf.pixels import PixelStatistics, image_entropy


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
        patch, merge = model.config.vision_config.patch_size, model.config.spatial_merge_size
        return list(_units(patch, merge, arguments["pixel_values"], sizes))


def _units(patch: int, merge: int, pixels: Tensor, sizes: Any) -> Iterator[Unit]:
    for view, (height, width) in enumerate(torch.as_tensor(sizes).tolist()):
        rows, columns = height // patch, width // patch
        yield Unit(
            views=slice(view, view + 1),
            layout=TokenLayout(np.indices((1, rows // merge, columns // merge)).reshape(3, -1).T),
            to_tokens=partial(_merge, merge, rows, columns),
            entropy=partial(image_entropy, pixels[view : view + 1, :, : rows * patch, : columns * patch], patch),
        )


def _merge(merge: int, rows: int, columns: int, patch_map: Tensor) -> Tensor:
    """[1, patches] -> [N], the mean over the patches of each token."""
    return avg_pool2d(patch_map.reshape(1, rows, columns), merge).flatten()


mistral3 = TransformersAdapter(Mistral3())
