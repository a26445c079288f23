"""Qwen2-VL: native-resolution tower with 2 x 2 merging, Qwen2 decoder with multimodal rotary positions; images, video.

Pixels arrive as flat patches, and so ordered that the patches of one visual token follow each other. The tower attends
within one image or one temporal slice of a video: these are the views.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from vflowopt.benchmark import BenchShape
from vflowopt_hf.families.block_patches import block_units
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics


class Qwen2VL(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "qwen2-vl"
    host_arguments: ClassVar[frozenset[str]] = frozenset({"image_grid_thw", "video_grid_thw"})
    repeats_placeholders: ClassVar[bool] = True
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last vision block."""
        visual: Any = self.backbone(model).visual
        attention: nn.Module = visual.blocks[-1].attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """One unit per image or video.

        Raises:
            InputError: the grid sizes that the processor returns beside the pixels are missing.
        """
        return block_units(model.config.vision_config, modality, arguments)

    def shapes(self) -> Sequence[BenchShape]:
        """``qwen2-vl-7b``; successors inherit none."""
        from vflowopt_qwen.qwen2_vl_shapes import qwen2_vl_shapes

        return qwen2_vl_shapes(self) if type(self) is Qwen2VL else ()
