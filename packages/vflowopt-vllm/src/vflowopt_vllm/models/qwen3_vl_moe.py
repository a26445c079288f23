"""Qwen3-VL with a mixture of experts."""

from typing import ClassVar

from vllm.model_executor.models import qwen3_vl_moe as vllm_models
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from vflowopt_vllm.models.qwen3_vl import Processor, PrunedQwen3
from vflowopt_vllm.processing import ImagesOnly


class Info(ImagesOnly, vllm_models.Qwen3VLMoeProcessingInfo):
    """Images only."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Qwen3VLDummyInputsBuilder)
class PrunedQwen3VLMoe(PrunedQwen3, vllm_models.Qwen3VLMoeForConditionalGeneration):
    """See the module's docstring."""

    upstream: ClassVar[str] = "Qwen3VLMoeForConditionalGeneration"
