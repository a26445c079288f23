"""Qwen2-VL, and what its successors share with it: flat patches, a grid per image, positions in three axes."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from vllm.model_executor.models import qwen2_vl as vllm_models
from vllm.multimodal import MULTIMODAL_REGISTRY

from vflowopt_hf.family import Unit
from vflowopt_vllm.processing import ImagesOnly, ShorterPrompts
from vflowopt_vllm.pruned_model import PrunedModel

GRID = "image_grid_thw"


class QwenPrompts(ShorterPrompts):
    """An image takes up as many positions as the longest side of its grid of visual tokens."""

    def extent(self, image: Any, tokens: int) -> int:  # noqa: ARG002
        """See :meth:`ShorterPrompts.extent`."""
        return grid_extent(image[GRID].data, self.info.get_hf_config())


class PrunedQwen(PrunedModel):
    """Mixin before any of vLLM's Qwen-VL models; an image's places are those of its grid."""

    visual: Any

    def observed(self) -> nn.Module:
        """Attention of the last block."""
        attention: nn.Module = self.visual.blocks[-1].attn.attn
        return attention

    def units(self, images: Mapping[str, Any]) -> Sequence[Unit]:
        """See :meth:`PrunedModel.units`."""
        return self._family.units(self, "image", images)

    def some(self, images: Mapping[str, Any], which: slice) -> dict[str, Any]:
        """See :meth:`PrunedModel.some`."""
        grids = images[GRID]
        ends = [0, *accumulate(grids.prod(-1).tolist())]
        start, stop, _ = which.indices(len(grids))
        return {"pixel_values": images["pixel_values"][ends[start] : ends[stop]], GRID: grids[which]}

    def places(self, image: Unit) -> Tensor:
        """See :meth:`PrunedModel.places`."""
        return torch.from_numpy(image.layout.position)

    def extent(self, image: Mapping[str, Any]) -> int:
        """See :meth:`PrunedModel.extent`."""
        return grid_extent(image[GRID].data, self.config)

    def _postprocess_image_embeds_evs(self, image_embeds_split: Any, _image_input: Any) -> Any:
        """Upstream, from Qwen2.5-VL on, adds places of its own, of all tokens; here they are added after pruning."""
        return image_embeds_split


def grid_extent(grid: Tensor, config: Any) -> int:
    """Positions that a grid of patches takes up: int [3], temporal slices, rows and columns."""
    slices, rows, columns = grid.tolist()
    merge = int(config.vision_config.spatial_merge_size)
    return int(max(slices, rows // merge, columns // merge))


class Info(ImagesOnly, vllm_models.Qwen2VLProcessingInfo):
    """Images only."""


class Processor(QwenPrompts, vllm_models.Qwen2VLMultiModalProcessor):
    """Shorter prompts."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=vllm_models.Qwen2VLDummyInputsBuilder)
class PrunedQwen2VL(PrunedQwen, vllm_models.Qwen2VLForConditionalGeneration):
    """See the module's docstring."""

    upstream: ClassVar[str] = "Qwen2VLForConditionalGeneration"
