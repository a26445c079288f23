"""LLaVA-NeXT."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor
from vllm.model_executor.models import llava_next as upstream
from vllm.multimodal import MULTIMODAL_REGISTRY

from vflowopt_vllm.models.llava import PrunedLlava
from vflowopt_vllm.processing import ImagesOnly, ShorterPrompts


class Info(ImagesOnly, upstream.LlavaNextProcessingInfo):
    """Images only."""


class Processor(ShorterPrompts, upstream.LlavaNextMultiModalProcessor):
    """Shorter prompts."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=upstream.LlavaDummyInputsBuilder)
class PrunedLlavaNext(PrunedLlava, upstream.LlavaNextForConditionalGeneration):
    """See the module's docstring."""

    upstream: ClassVar[str] = "LlavaNextForConditionalGeneration"
    merge: ClassVar[Callable[..., Tensor]] = upstream.LlavaNextForConditionalGeneration._merge_image_patch_embeddings
