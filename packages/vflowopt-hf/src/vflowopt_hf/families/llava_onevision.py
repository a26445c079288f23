"""LLaVA-OneVision: SigLIP tower, anyres crops, Qwen2 decoder; images, several images, video.

Geometry is upstream's own: maps go through the model's ``pack_image_features`` and ``apply_pooling``, with one channel
instead of the features' many, so they line up with the features by construction.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.llava_onevision.modeling_llava_onevision import image_size_to_num_patches

from vflowopt import TokenLayout
from vflowopt.arrays import HostInts
from vflowopt.benchmark import BenchShape
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics, image_entropy


class LlavaOnevision(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "llava-onevision"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def backbone(self, model: Any) -> nn.Module:
        """``LlavaOnevisionModel``."""
        backbone: nn.Module = model.model
        return backbone

    def decoder(self, model: Any) -> nn.Module:
        """The Qwen2 decoder."""
        decoder: nn.Module = model.model.language_model
        return decoder

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer that the projector uses."""
        tower = model.model.vision_tower
        layers = getattr(tower, "vision_model", tower).encoder.layers
        selected = model.config.vision_feature_layer
        index = max(_block_index(i, len(layers)) for i in ([selected] if isinstance(selected, int) else selected))
        attention: nn.Module = layers[index].self_attn
        return attention

    def placeholder_ids(self, model: Any) -> Mapping[str, int]:
        """``<image>`` and ``<video>``."""
        return {"image": model.config.image_token_id, "video": model.config.video_token_id}

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """One unit per image (a sample's single image is tiled) or per video."""
        return list((_videos if modality == "video" else _images)(model, arguments))

    def shapes(self) -> Sequence[BenchShape]:
        """``mid`` and ``siglip-so400m``."""
        from vflowopt_hf.shapes import onevision_shapes

        return onevision_shapes()


def _images(model: Any, arguments: Mapping[str, Any]) -> Iterator[Unit]:
    config, pixels, sizes = model.config, arguments["pixel_values"], arguments["image_sizes"].cpu()
    counts = arguments.get("batch_num_images")
    per_sample = [1] * len(sizes) if counts is None else [int(n) for n in counts]
    tiled = [n == 1 for n in per_sample for _ in range(n)]  # upstream tiles only a sample's single image
    start = 0
    for index, size in enumerate(sizes):
        views = 1
        if tiled[index]:
            views = image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)
        # A 4-dimensional batch comes without padding views.
        own = pixels[index, :views] if pixels.ndim == 5 else pixels[start : start + views]
        yield Unit(
            views=slice(start, start + views),
            layout=_image_layout(model, size, views),
            to_tokens=partial(_pack_image, model, size),
            entropy=partial(image_entropy, own, config.vision_config.patch_size),
        )
        start += views


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


def _block_index(feature_layer: int, layers: int) -> int:
    """The block whose output is entry ``feature_layer`` of the hidden states (entry 0 is the embedding)."""
    return (feature_layer if feature_layer >= 0 else layers + 1 + feature_layer) - 1


def _patches_per_side(model: Any) -> int:
    vision = model.config.vision_config
    return int(vision.image_size // vision.patch_size)


def _pack_image(model: Any, size: Tensor, patch_map: Tensor) -> Tensor:
    """[views, patches] -> [N]; row separators get 0."""
    newline = torch.zeros(1, dtype=patch_map.dtype, device=patch_map.device)
    packed, _ = model.model.pack_image_features(
        [patch_map[..., None]], size[None], image_newline=newline, vision_aspect_ratio=model.config.vision_aspect_ratio
    )
    tokens: Tensor = packed[0][:, 0]
    return tokens


def _pool_video(model: Any, patch_map: Tensor) -> Tensor:
    """[frames, patches] -> [N]; the separator at the end gets 0."""
    pooled = model.model.apply_pooling(patch_map[..., None]).flatten()
    return torch.cat([pooled, pooled.new_zeros(1)])


def _image_layout(model: Any, size: Tensor, views: int) -> TokenLayout:
    """Base crop as grid 0, the stitched, unpadded and perhaps interpolated grid as grid 1, one newline per row.

    The size of that grid is read off upstream's packing of a constant map: it has as many rows as row separators.
    """
    side = _patches_per_side(model)
    structural = (_pack_image(model, size, torch.ones(views, side * side)) < 0.5).numpy()
    base = grid_positions(0, side, side)
    if views == 1:
        return TokenLayout(np.concatenate([base, _SEPARATOR]))
    rows = int(structural.sum())
    columns = (len(structural) - side * side) // rows - 1
    grid = grid_positions(1, rows, columns).reshape(rows, columns, 3)
    with_newlines = np.concatenate([grid, np.broadcast_to(_SEPARATOR, (rows, 1, 3))], axis=1)
    return TokenLayout(np.concatenate([base, with_newlines.reshape(-1, 3)]))


def _video_layout(model: Any, frames: int) -> TokenLayout:
    """One pooled grid per frame and one separator at the end of the video."""
    side = -(-_patches_per_side(model) // 2)
    return TokenLayout(np.concatenate([*(grid_positions(frame, side, side) for frame in range(frames)), _SEPARATOR]))


_SEPARATOR: HostInts = np.full((1, 3), -1, dtype=np.int64)


def grid_positions(view: int, rows: int, columns: int) -> HostInts:
    """Positions of a grid in row-major order, int64 [rows * columns, 3]."""
    row, column = np.divmod(np.arange(rows * columns, dtype=np.int64), columns)
    return np.stack([np.full_like(row, view), row, column], axis=1)
