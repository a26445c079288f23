"""Molmo2: SigLIP-like tower, patches pooled by attention, Olmo or Qwen3 decoder; images in crops, several, video.

Beside the pixels stands which patches of a call's views each visual token is pooled of: those of the whole image, then
those of the crops, whose overlapping margins no token takes. A frame of a video is a view of its own. Visual tokens see
each other in both directions at prefill. Features are added to the placeholders' embeddings.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from vflowopt import TokenLayout
from vflowopt.arrays import HostInts
from vflowopt_hf.families.anyres import grid_positions
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.feature_layer import last_used_layer
from vflowopt_hf.pixels import PixelStatistics, image_entropy


class Molmo2(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "molmo2"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer whose output is pooled."""
        states = [layer + 1 if layer >= 0 else layer for layer in model.config.adapter_config.vision_feature_layer]
        attention: nn.Module = last_used_layer(model.model.vision_tower.layers, states).self_attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """One unit per image, all its crops, or per video."""
        pixels = arguments["pixel_values_videos" if modality == "video" else "pixel_values"].flatten(0, -3)
        positions = [_positions(modality, grid) for grid in arguments[f"{modality}_grids"].tolist()]
        pooled = arguments[f"{modality}_token_pooling"]
        return list(_units(pixels, pooled[(pooled >= 0).any(dim=1)], positions, model.config.vision_config.patch_size))


def _positions(modality: str, grid: Sequence[int]) -> HostInts:
    """Of an image the whole as grid 0 and the crops, put together, as grid 1; of a video a grid per frame."""
    if modality == "video":
        return np.indices(grid).reshape(3, -1).T
    return np.concatenate([grid_positions(0, *grid[:2]), grid_positions(1, *grid[2:])])


def _units(pixels: Tensor, pooled: Tensor, positions: Sequence[HostInts], side: int) -> Iterator[Unit]:
    patches, start = pixels.shape[1], 0
    for position in positions:
        own = pooled[start : start + len(position)]
        first, last = (int(edge) // patches for edge in (own[own >= 0].min(), own.max()))
        yield Unit(
            views=slice(first, last + 1),
            layout=TokenLayout(position),
            to_tokens=partial(_pool, own - first * patches, own >= 0),
            entropy=partial(_entropy, pixels[first : last + 1], side),
        )
        start += len(position)


def _pool(members: Tensor, present: Tensor, patch_map: Tensor) -> Tensor:
    """[views, patches] -> [N], the mean over the patches of each token."""
    members, present = members.to(patch_map.device), present.to(patch_map.device)
    values = patch_map.flatten()[members.clamp(min=0)] * present
    return values.sum(dim=1) / present.sum(dim=1)


def _entropy(pixels: Tensor, side: int, statistics: PixelStatistics) -> Tensor:
    """[views, patches, side * side * 3] -> [views, patches]."""
    patches = pixels.reshape(-1, side, side, 3).permute(0, 3, 1, 2)
    return image_entropy(patches, side, statistics).reshape(len(pixels), -1)
