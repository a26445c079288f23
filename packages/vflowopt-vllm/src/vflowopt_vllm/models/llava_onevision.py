"""LLaVA-OneVision."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor
from vllm.model_executor.models import llava_onevision as vllm_models
from vllm.multimodal import MULTIMODAL_REGISTRY

from vflowopt_vllm.models.llava import PrunedLlava
from vflowopt_vllm.processing import ImagesOnly, ShorterPrompts


class Info(ImagesOnly, vllm_models.LlavaOnevisionProcessingInfo):
    """Images only."""


class Processor(ShorterPrompts, vllm_models.LlavaOnevisionMultiModalProcessor):
    """Shorter prompts."""


def _merge(stand_in: Any, size: Tensor, states: Tensor, strategy: str) -> Tensor:
    merge = vllm_models.LlavaOnevisionForConditionalGeneration._merge_image_patch_embeddings
    merged: Tensor = merge(stand_in, size, states, image_newline=stand_in.image_newline, strategy=strategy)
    return merged


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=vllm_models.LlavaOnevisionDummyInputsBuilder)
class PrunedLlavaOnevision(PrunedLlava, vllm_models.LlavaOnevisionForConditionalGeneration):
    """See the module's docstring."""

    upstream: ClassVar[str] = "LlavaOnevisionForConditionalGeneration"
    merge: ClassVar[Callable[..., Tensor]] = staticmethod(_merge)
