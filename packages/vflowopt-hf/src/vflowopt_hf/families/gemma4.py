"""Gemma 4: padded views of any shape, pooled by position; decoder with sliding windows; images, video.

Layers with full attention have heads of another size than those with a window. In E2B and E4B each decoder layer takes
inputs of its own, and the last ones reuse keys of earlier layers. A video is one unit, though a time stands before each
of its frames in the prompt.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vflowopt_hf.families.merged_patches import merge_views, merged_layout
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics, image_entropy


class Gemma4(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "gemma4"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer."""
        attention: nn.Module = model.model.vision_tower.encoder.layers[-1].self_attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """One unit per image, or per video of several frames."""
        video = modality == "video"
        pixels = arguments["pixel_values_videos" if video else "pixel_values"]
        frames = arguments["num_frames_per_video"].tolist() if video else [1] * len(pixels)
        return list(_units(model, pixels, arguments[f"{modality}_position_ids"], frames))


def _units(model: Any, pixels: Tensor, positions: Tensor, frames: Sequence[int]) -> Iterator[Unit]:
    vision, view = model.config.vision_config, 0
    merge = int(vision.pooling_kernel_size)
    patches_of, sides_of = (positions != -1).all(dim=-1).sum(dim=1, keepdim=True), positions.amax(dim=1) + 1
    sizes = torch.cat([patches_of, sides_of], dim=1).tolist()  # of all views at once: it waits for the device
    for count in frames:
        views, (patches, columns, rows) = slice(view, view + count), sizes[view]
        yield Unit(
            views=views,
            layout=merged_layout(count, rows, columns, merge),
            to_tokens=merge_views(merge, rows, columns),
            entropy=partial(image_entropy, _picture(pixels[views, :patches], rows, columns), int(vision.patch_size)),
            real_patches=patches,
        )
        view += count


def _picture(patches: Tensor, rows: int, columns: int) -> Tensor:
    """Flat patches row by row, [views, patches, side * side * 3] -> [views, 3, height, width]."""
    side = round((patches.shape[-1] // 3) ** 0.5)
    grid = patches.reshape(len(patches), rows, columns, side, side, 3).permute(0, 5, 1, 3, 2, 4)
    return grid.reshape(len(patches), 3, rows * side, columns * side)
