"""LLaVA-OneVision."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor
from vllm.model_executor.models import llava_onevision as upstream
from vllm.multimodal import MULTIMODAL_REGISTRY

from vflowopt_vllm.models.llava import PrunedLlava
from vflowopt_vllm.processing import ImagesOnly, ShorterPrompts


class Info(ImagesOnly, upstream.LlavaOnevisionProcessingInfo):
    """Images only."""


class Processor(ShorterPrompts, upstream.LlavaOnevisionMultiModalProcessor):
    """Shorter prompts."""


def _merge(stand_in: Any, size: Tensor, states: Tensor, strategy: str) -> Tensor:
    merge = upstream.LlavaOnevisionForConditionalGeneration._merge_image_patch_embeddings
    return merge(stand_in, size, states, image_newline=stand_in.image_newline, strategy=strategy)


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=upstream.LlavaOnevisionDummyInputsBuilder)
class PrunedLlavaOnevision(PrunedLlava, upstream.LlavaOnevisionForConditionalGeneration):
    """See the module's docstring."""

    upstream: ClassVar[str] = "LlavaOnevisionForConditionalGeneration"
    merge: ClassVar[Callable[..., Tensor]] = staticmethod(_merge)
