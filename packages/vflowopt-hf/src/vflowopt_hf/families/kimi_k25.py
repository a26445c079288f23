"""Kimi-K2.5: native-resolution tower with 2 x 2 merging, DeepSeek-V3 decoder (MLA); images, video.

Pixels arrive as flat patches row by row. A video reaches the model in chunks of a few frames, each with a time before
it; the patches of a chunk attend to each other whatever frame they are of, and a visual token is their mean over the
frames. Nothing tells which chunks make a video: every chunk is a unit, scored and pruned like an image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from vflowopt_hf.families.row_patches import row_units
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics


class KimiK25(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "kimi-k2.5"
    repeats_placeholders: ClassVar[bool] = True
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer."""
        attention: nn.Module = model.model.vision_tower.layers[-1].attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """One unit per image or chunk of a video.

        Raises:
            InputError: the grid sizes that the processor returns beside the pixels are missing.
        """
        vision = model.config.vision_config
        return row_units(int(vision.patch_size), int(vision.merge_kernel_size[0]), modality, arguments)
