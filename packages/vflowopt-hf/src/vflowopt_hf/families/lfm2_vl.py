"""LFM2-VL: SigLIP 2 tower on padded views, pixel unshuffle, decoder of short convolutions and attention; images.

A large image reaches the model as tiles and a thumbnail, each in a place of its own in the prompt, and nothing in the
inputs tells which of them make an image: every view is a unit of its own, scored and pruned like an image.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from vflowopt_hf.families.merged_patches import merge_rows, merged_layout
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics, image_entropy


class Lfm2VL(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "lfm2-vl"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer."""
        tower = model.model.vision_tower
        attention: nn.Module = getattr(tower, "vision_model", tower).encoder.layers[-1].self_attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One unit per image, tile or thumbnail."""
        side, merge = int(model.config.vision_config.patch_size), int(model.config.downsample_factor)
        return list(_units(side, merge, arguments["pixel_values"], arguments["spatial_shapes"].tolist()))


def _units(side: int, merge: int, pixels: Tensor, shapes: Sequence[Sequence[int]]) -> Iterator[Unit]:
    for view, (rows, columns) in enumerate(shapes):
        patches = pixels[view, : rows * columns]
        yield Unit(
            views=slice(view, view + 1),
            layout=merged_layout(1, rows, columns, merge),
            to_tokens=merge_rows(merge, rows, columns),
            entropy=partial(image_entropy, _picture(patches, rows, columns, side), side),
            real_patches=rows * columns,
        )


def _picture(patches: Tensor, rows: int, columns: int, side: int) -> Tensor:
    """Patches, each [side, side, 3] and flat -> [1, 3, height, width]."""
    grid = patches.reshape(rows, columns, side, side, 3).permute(4, 0, 2, 1, 3)
    return grid.reshape(1, 3, rows * side, columns * side)
