"""Qwen2.5-VL: Qwen2-VL with a tower that attends within windows, but for a few blocks; images, video.

The tower puts the patches of a view into the order of its windows, and keeps them there. The blocks with full attention
attend within one image or one temporal slice, as all of Qwen2-VL's do; only they see a whole view.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.vision_utils import get_vision_window_index

from vflowopt_hf.family import Unit
from vflowopt_qwen.qwen2_vl import Qwen2VL


class Qwen25VL(Qwen2VL):
    """See the module's docstring."""

    name: ClassVar[str] = "qwen2.5-vl"

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last block with full attention."""
        last = max(model.config.vision_config.fullatt_block_indexes)
        visual: Any = self.backbone(model).visual
        attention: nn.Module = visual.blocks[last].attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """One unit per image or video; the tower's attention is put back into the order of the pixels.

        Raises:
            InputError: the grid sizes that the processor returns beside the pixels are missing.
        """
        units, grids = super().units(model, modality, arguments), arguments[f"{modality}_grid_thw"].tolist()
        vision = model.config.vision_config
        return [
            replace(unit, patch_order=_patch_order(vision, height, width))
            for unit, (_, height, width) in zip(units, grids, strict=True)
        ]


def _patch_order(config: Any, height: int, width: int) -> Tensor:
    """Where each patch of a view stands in the order of windows, int64 [height * width].

    Windows hold whole visual tokens, and the patches of a token stay together.
    """
    merge = int(config.spatial_merge_size)
    windows, _ = get_vision_window_index(
        torch.tensor([[1, height, width]]), merge, int(config.window_size), int(config.patch_size)
    )
    patches = torch.arange(height * width).reshape(-1, merge * merge)
    return patches[windows.argsort()].flatten()
