"""Qwen3-VL: Qwen2-VL's layout, and features of earlier vision layers that decoder layers add (DeepStack).

These stand in further columns of an image's embeddings, and are merged as the embeddings are.
"""

from typing import ClassVar

from vllm.model_executor.models import qwen3_vl as vllm_models
from vllm.multimodal import MULTIMODAL_REGISTRY

from vflowopt_vllm.models.qwen2_vl import PrunedQwen, QwenPrompts
from vflowopt_vllm.processing import ImagesOnly


class Info(ImagesOnly, vllm_models.Qwen3VLProcessingInfo):
    """Images only."""


class Processor(QwenPrompts, vllm_models.Qwen3VLMultiModalProcessor):
    """Shorter prompts."""


class PrunedQwen3(PrunedQwen):
    """Mixin before vLLM's Qwen3-VL and its successors."""

    visual_dim: int
    multiscale_dim: int

    @property
    def columns(self) -> int:
        """See :attr:`PrunedModel.columns`."""
        return self.visual_dim + self.multiscale_dim


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=vllm_models.Qwen3VLDummyInputsBuilder)
class PrunedQwen3VL(PrunedQwen3, vllm_models.Qwen3VLForConditionalGeneration):
    """See the module's docstring."""

    upstream: ClassVar[str] = "Qwen3VLForConditionalGeneration"
