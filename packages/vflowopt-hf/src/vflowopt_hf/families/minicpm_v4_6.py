"""MiniCPM-V 4.6: a tower that merges 2 x 2 patches on its way, a merger, and the hybrid decoder of Qwen3.5; images.

What the last tower layer attends with are merged patches, unless ``downsample_mode="4x"`` leaves the merging out: these
are the patches here. A large image reaches the model whole and in slices, each in a place of its own in the prompt, and
nothing in the inputs tells which of them make an image: every view is a unit of its own, scored and pruned like an
image. Videos are refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from vflowopt.errors import InputError, UnsupportedOperationError
from vflowopt_hf.families.merged_patches import merge_rows, merged_layout
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics, image_entropy


class MiniCPMV46(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "minicpm-v-4.6"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def placeholder_ids(self, model: Any) -> Mapping[str, int]:
        """Of images only."""
        return {"image": model.config.image_token_id}

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer."""
        attention: nn.Module = model.model.vision_tower.encoder.layers[-1].self_attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """One unit per image or slice.

        Raises:
            UnsupportedOperationError: the inputs hold a video.
            InputError: sizes and pixels do not agree.
        """
        if modality == "video":
            raise UnsupportedOperationError(
                "videos of MiniCPM-V 4.6 are not supported; pass their frames as images, or ask outside the block"
            )
        config = model.config
        whole = (arguments.get("downsample_mode") or config.downsample_mode) == "4x"
        merged = 1 if whole or config.vision_config.insert_layer_id < 0 else config.vision_config.window_kernel_size[0]
        merge = config.merge_kernel_size[0] ** config.merger_times
        side, sizes = int(config.vision_config.patch_size), arguments["target_sizes"].tolist()
        pixels, told = arguments["pixel_values"][0], sum(height * width for height, width in sizes)
        if pixels.shape[-1] != told * side:
            raise InputError(
                f"target_sizes tell of {told} patches, but pixel_values hold {pixels.shape[-1] // side} beside each "
                f"other; pass what the processor makes of the whole batch"
            )
        return list(_units(side, int(merged), int(merge), pixels, sizes))


def _units(side: int, merged: int, merge: int, pixels: Tensor, sizes: Sequence[Sequence[int]]) -> Iterator[Unit]:
    start = 0
    for view, (height, width) in enumerate(sizes):
        rows, columns, end = height // merged, width // merged, start + height * width * side
        yield Unit(
            views=slice(view, view + 1),
            layout=merged_layout(1, rows, columns, merge),
            to_tokens=merge_rows(merge, rows, columns),
            entropy=partial(image_entropy, _picture(pixels[..., start:end], height, width), side * merged),
            packed_patches=rows * columns,
        )
        start = end


def _picture(packed: Tensor, rows: int, columns: int) -> Tensor:
    """Patches beside each other, [3, side, patches * side] -> [1, 3, height, width]."""
    channels, side = packed.shape[:2]
    grid = packed.reshape(channels, side, rows, columns, side).permute(0, 2, 1, 3, 4)
    return grid.reshape(1, channels, rows * side, columns * side)
