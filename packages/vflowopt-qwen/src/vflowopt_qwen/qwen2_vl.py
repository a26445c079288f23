"""Qwen2-VL: native-resolution tower with 2 x 2 merging, Qwen2 decoder with multimodal rotary positions; images, video.

Pixels arrive as flat patches, and so ordered that the patches of one visual token follow each other. The tower attends
within one image or one temporal slice of a video: these are the views.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from vflowopt import TokenLayout
from vflowopt.benchmark import BenchShape
from vflowopt.errors import InputError
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics, image_entropy


class Qwen2VL(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "qwen2-vl"
    repeats_placeholders: ClassVar[bool] = True
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last vision block."""
        attention: nn.Module = model.model.visual.blocks[-1].attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """One unit per image or video.

        Raises:
            InputError: the grid sizes that the processor returns beside the pixels are missing.
        """
        grid = arguments.get(f"{modality}_grid_thw")
        if grid is None:
            raise InputError(f"{modality}_grid_thw is missing; pass everything that the processor returned")
        return list(_units(model.config.vision_config, modality, arguments, grid.tolist()))

    def shapes(self) -> Sequence[BenchShape]:
        """``qwen2-vl-7b``; successors inherit none."""
        from vflowopt_qwen.qwen2_vl_shapes import qwen2_vl_shapes

        return qwen2_vl_shapes(self) if type(self) is Qwen2VL else ()


def _units(config: Any, modality: str, arguments: Mapping[str, Any], grid: Sequence[Sequence[int]]) -> Iterator[Unit]:
    patches = arguments["pixel_values_videos" if modality == "video" else "pixel_values"]
    merge = int(config.spatial_merge_size)
    view = patch = 0
    for slices, height, width in grid:
        count = slices * height * width
        # An image is one frame that the processor has repeated: one of its copies says all.
        frames = config.temporal_patch_size if modality == "video" else 1
        yield Unit(
            views=slice(view, view + slices),
            # Row-major over merged tokens, slice by slice.
            layout=TokenLayout(np.indices((slices, height // merge, width // merge)).reshape(3, -1).T),
            to_tokens=partial(_merge, merge),
            entropy=partial(_entropy, config, patches[patch : patch + count], slices, frames),
        )
        view += slices
        patch += count


def _merge(merge: int, patch_map: Tensor) -> Tensor:
    """[slices, patches] -> [N], the mean over the patches of each token."""
    return patch_map.reshape(-1, merge * merge).mean(dim=1)


def _entropy(config: Any, patches: Tensor, slices: int, frames: int, statistics: PixelStatistics) -> Tensor:
    """Entropy over a patch's pixels in the first ``frames`` frames of its slice: float32 [slices, patches].

    Args:
        config: configuration of the vision tower.
        patches: [slices * patches, channels * frames * side * side], normalised.
        slices: temporal slices.
        frames: how many of a slice's frames to look at.
        statistics: normalisation to invert.
    """
    side = int(config.patch_size)
    pixels = patches.reshape(len(patches), config.in_channels, config.temporal_patch_size, side, side)
    # Frames stand below each other; repeated sideways they form a square, and repetition leaves entropy as it is.
    square = torch.cat(pixels[:, :, :frames].unbind(2), dim=2).repeat(1, 1, 1, frames)
    return image_entropy(square, side * frames, statistics).reshape(slices, -1)
