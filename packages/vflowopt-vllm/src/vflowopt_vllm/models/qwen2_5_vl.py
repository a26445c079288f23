"""Qwen2.5-VL: Qwen2-VL's layout, and a tower of which a few blocks attend to whole images."""

from typing import ClassVar

from torch import nn
from vllm.model_executor.models import qwen2_5_vl as vllm_models
from vllm.multimodal import MULTIMODAL_REGISTRY

from vflowopt_vllm.models.qwen2_vl import PrunedQwen, QwenPrompts
from vflowopt_vllm.processing import ImagesOnly


class Info(ImagesOnly, vllm_models.Qwen2_5_VLProcessingInfo):
    """Images only."""


class Processor(QwenPrompts, vllm_models.Qwen2_5_VLMultiModalProcessor):
    """Shorter prompts."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=vllm_models.Qwen2_5_VLDummyInputsBuilder)
class PrunedQwen25VL(PrunedQwen, vllm_models.Qwen2_5_VLForConditionalGeneration):
    """See the module's docstring."""

    upstream: ClassVar[str] = "Qwen2_5_VLForConditionalGeneration"

    def observed(self) -> nn.Module:
        """Attention of the last block that attends to whole images."""
        last = max(self.config.vision_config.fullatt_block_indexes)
        attention: nn.Module = self.visual.blocks[last].attn.attn
        return attention
