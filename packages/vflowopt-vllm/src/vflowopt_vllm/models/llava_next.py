"""LLaVA-NeXT."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor
from vllm.model_executor.models import llava_next as vllm_models
from vllm.multimodal import MULTIMODAL_REGISTRY

from vflowopt_vllm.models.llava import PrunedLlava
from vflowopt_vllm.processing import ImagesOnly, ShorterPrompts


class Info(ImagesOnly, vllm_models.LlavaNextProcessingInfo):
    """Images only."""


class Processor(ShorterPrompts, vllm_models.LlavaNextMultiModalProcessor):
    """Shorter prompts."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=vllm_models.LlavaDummyInputsBuilder)
class PrunedLlavaNext(PrunedLlava, vllm_models.LlavaNextForConditionalGeneration):
    """See the module's docstring."""

    upstream: ClassVar[str] = "LlavaNextForConditionalGeneration"
    merge: ClassVar[Callable[..., Tensor]] = vllm_models.LlavaNextForConditionalGeneration._merge_image_patch_embeddings
