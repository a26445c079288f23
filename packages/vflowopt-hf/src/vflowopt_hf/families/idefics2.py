"""Idefics2: SigLIP-like tower on images of any size, a perceiver resampler, Mistral decoder; images, several images.

The resampler asks all patches of a view by a fixed number of queries, each of which makes a visual token. A token has
no place in the image: every one is a grid of its own, so that recycling merges none. The four quarters of a split image
and the whole reach the model as further images, and nothing tells which make an image: every one is a unit of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vflowopt import TokenLayout
from vflowopt_hf.families.idefics3 import Idefics3
from vflowopt_hf.family import Unit
from vflowopt_hf.pixels import image_entropy


class Idefics2(Idefics3):
    """See the module's docstring."""

    name: ClassVar[str] = "idefics2"

    def resampler(self, model: Any) -> nn.Module:
        """Attention of the last layer of the resampler."""
        attention: nn.Module = model.model.connector.perceiver_resampler.layers[-1].self_attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One unit per view that is no padding."""
        pixels, mask = arguments["pixel_values"].flatten(0, 1), arguments.get("pixel_attention_mask")
        real = self.real_crops(pixels)
        shown = torch.ones_like(pixels[:, 0]) if mask is None else mask.flatten(0, 1)
        tokens = int(model.config.perceiver_config.resampler_n_latents)
        return list(_units(pixels[real], shown[real], int(model.config.vision_config.patch_size), tokens))

    def tokens_per_unit(self, model: Any, modality: str, ids: Any) -> None:  # noqa: ARG002
        """Nothing is joined."""
        return


def _units(pixels: Tensor, shown: Tensor, patch: int, tokens: int) -> Iterator[Unit]:
    columns = pixels.shape[-1] // patch
    sizes = torch.stack([shown[:, :, 0].sum(1), shown[:, 0].sum(1)], dim=1) // patch  # padding is right and below
    for view, (height, width) in enumerate(sizes.tolist()):  # of all views at once: it waits for the device
        yield Unit(
            views=slice(view, view + 1),
            layout=TokenLayout(np.arange(tokens)[:, None] * np.array([1, 0, 0])),
            to_tokens=torch.flatten,
            entropy=partial(image_entropy, pixels[view : view + 1, :, : height * patch, : width * patch], patch),
            patch_order=(torch.arange(height)[:, None] * columns + torch.arange(width)).flatten(),
        )
