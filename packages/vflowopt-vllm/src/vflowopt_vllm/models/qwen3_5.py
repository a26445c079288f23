"""Qwen3.5 and Qwen3.6: Qwen3-VL's layout without DeepStack; recurrent layers see the tokens that are left."""

from typing import ClassVar

from vllm.model_executor.models import qwen3_5 as vllm_models
from vllm.model_executor.models.qwen3_vl import Qwen3VLDummyInputsBuilder
from vllm.multimodal import MULTIMODAL_REGISTRY

from vflowopt_vllm.models.qwen3_vl import Processor, PrunedQwen3
from vflowopt_vllm.processing import ImagesOnly


class Info(ImagesOnly, vllm_models.Qwen3_5ProcessingInfo):
    """Images only."""


class MoeInfo(ImagesOnly, vllm_models.Qwen3_5MoeProcessingInfo):
    """Images only."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=Qwen3VLDummyInputsBuilder)
class PrunedQwen35(PrunedQwen3, vllm_models.Qwen3_5ForConditionalGeneration):
    """See the module's docstring."""

    upstream: ClassVar[str] = "Qwen3_5ForConditionalGeneration"


@MULTIMODAL_REGISTRY.register_processor(Processor, info=MoeInfo, dummy_inputs=Qwen3VLDummyInputsBuilder)
class PrunedQwen35Moe(PrunedQwen3, vllm_models.Qwen3_5MoeForConditionalGeneration):
    """The same with a mixture of experts."""

    upstream: ClassVar[str] = "Qwen3_5MoeForConditionalGeneration"
