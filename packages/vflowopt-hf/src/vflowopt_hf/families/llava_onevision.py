"""LLaVA-OneVision: SigLIP tower, anyres crops, Qwen2 decoder; images, several images, video.

Geometry is upstream's own: maps go through the model's ``pack_image_features`` and ``apply_pooling``, with one channel
instead of the features' many, so they line up with the features by construction.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from vflowopt import TokenLayout
from vflowopt.benchmark import BenchShape
from vflowopt_hf.families.anyres import (
    SEPARATOR,
    grid_positions,
    image_units,
    one_map,
    packing_without_waits,
    patches_per_side,
)
from vflowopt_hf.families.llava_family import LlavaFamily
from vflowopt_hf.family import Unit
from vflowopt_hf.pixels import PixelStatistics, image_entropy


class LlavaOnevision(LlavaFamily):
    """See the module's docstring."""

    name: ClassVar[str] = "llava-onevision"
    host_arguments: ClassVar[frozenset[str]] = frozenset({"image_sizes", "batch_num_images"})
    repeats_placeholders: ClassVar[bool] = True
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """One unit per image (a sample's single image is tiled) or per video."""
        return list((_videos if modality == "video" else _images)(model, arguments))

    def without_waits(self, backbone: Any) -> Mapping[str, Callable[..., Any]]:
        """Packing that does not copy lengths to the device."""
        return packing_without_waits(backbone)

    def shapes(self) -> Sequence[BenchShape]:
        """``mid``, ``large``, ``siglip-so400m`` and ``llava-onevision-7b``."""
        from vflowopt_hf.families.shapes.llava_onevision import onevision_shapes

        return onevision_shapes(self)


def _images(model: Any, arguments: Mapping[str, Any]) -> Iterator[Unit]:
    pixels, sizes, counts = arguments["pixel_values"], arguments["image_sizes"], arguments.get("batch_num_images")
    per_sample = [1] * len(sizes) if counts is None else torch.as_tensor(counts).tolist()
    tiled = [n == 1 for n in per_sample for _ in range(n)]  # upstream tiles only a sample's single image
    return image_units(model.config, pixels, sizes, tiled, partial(_pack_image, model))


def _videos(model: Any, arguments: Mapping[str, Any]) -> Iterator[Unit]:
    pixels = arguments["pixel_values_videos"]
    frames = pixels.shape[1]
    for index, video in enumerate(pixels):
        yield Unit(
            views=slice(index * frames, (index + 1) * frames),
            layout=_video_layout(model, frames),
            to_tokens=partial(_pool_video, model),
            entropy=partial(image_entropy, video, model.config.vision_config.patch_size),
        )


def _pack_image(model: Any, size: tuple[int, int], patch_map: Tensor) -> Tensor:
    """[views, patches] -> [N]; row separators get 0."""
    newline = torch.zeros(1, dtype=patch_map.dtype, device=patch_map.device)
    packed, _ = model.model.pack_image_features(
        one_map(patch_map), [size], image_newline=newline, vision_aspect_ratio=model.config.vision_aspect_ratio
    )
    tokens: Tensor = packed[0][:, 0]
    return tokens


def _pool_video(model: Any, patch_map: Tensor) -> Tensor:
    """[frames, patches] -> [N]; the separator at the end gets 0."""
    pooled = model.model.apply_pooling(patch_map[..., None]).flatten()
    return torch.cat([pooled, pooled.new_zeros(1)])


def _video_layout(model: Any, frames: int) -> TokenLayout:
    """One pooled grid per frame and one separator at the end of the video."""
    side = -(-patches_per_side(model.config) // 2)
    return TokenLayout(np.concatenate([*(grid_positions(frame, side, side) for frame in range(frames)), SEPARATOR]))
