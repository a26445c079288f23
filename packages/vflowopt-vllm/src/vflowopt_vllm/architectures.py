"""The models that are served, by the names that vLLM knows them by. Imports neither vLLM nor any of the models."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from vflowopt_hf.family import Family

PREFIX = "VFlowOpt"
"""Before the names of vLLM's architectures: its own stay as they are."""


@dataclass(frozen=True)
class Served:
    """A served architecture.

    Attributes:
        upstream: vLLM's name of it, as in a checkpoint's ``architectures``.
        model: ``"module:class"`` of the pruned model.
        adapter: ``"module:class"`` of the family that knows its images.
    """

    upstream: str
    model: str
    adapter: str

    @property
    def name(self) -> str:
        """Its name in ``--hf-overrides``."""
        return PREFIX + self.upstream

    def family(self) -> Family:
        """The family that knows its images; imports it."""
        module, _, name = self.adapter.partition(":")
        return cast("Family", getattr(importlib.import_module(module), name)())


_MODELS = (
    Served(
        "Qwen2VLForConditionalGeneration",
        "vflowopt_vllm.models.qwen2_vl:PrunedQwen2VL",
        "vflowopt_qwen.qwen2_vl:Qwen2VL",
    ),
    Served(
        "Qwen2_5_VLForConditionalGeneration",
        "vflowopt_vllm.models.qwen2_5_vl:PrunedQwen25VL",
        "vflowopt_qwen.qwen2_5_vl:Qwen25VL",
    ),
    Served(
        "Qwen3VLForConditionalGeneration",
        "vflowopt_vllm.models.qwen3_vl:PrunedQwen3VL",
        "vflowopt_qwen.qwen3_vl:Qwen3VL",
    ),
    Served(
        "Qwen3_5ForConditionalGeneration",
        "vflowopt_vllm.models.qwen3_5:PrunedQwen35",
        "vflowopt_qwen.qwen3_5:Qwen35",
    ),
    Served(
        "Qwen3VLMoeForConditionalGeneration",
        "vflowopt_vllm.models.qwen3_vl_moe:PrunedQwen3VLMoe",
        "vflowopt_qwen.qwen3_vl:Qwen3VL",
    ),
    Served(
        "Qwen3_5MoeForConditionalGeneration",
        "vflowopt_vllm.models.qwen3_5:PrunedQwen35Moe",
        "vflowopt_qwen.qwen3_5:Qwen35",
    ),
    Served(
        "InternVLForConditionalGeneration",
        "vflowopt_vllm.models.internvl:PrunedInternVL",
        "vflowopt_hf.families.internvl:InternVL",
    ),
    Served(
        "LlavaOnevisionForConditionalGeneration",
        "vflowopt_vllm.models.llava_onevision:PrunedLlavaOnevision",
        "vflowopt_hf.families.llava_onevision:LlavaOnevision",
    ),
    Served(
        "LlavaNextForConditionalGeneration",
        "vflowopt_vllm.models.llava_next:PrunedLlavaNext",
        "vflowopt_hf.families.llava_next:LlavaNext",
    ),
)

BY_UPSTREAM: Mapping[str, Served] = {served.upstream: served for served in _MODELS}
"""By vLLM's own name."""

BY_NAME: Mapping[str, Served] = {served.name: served for served in _MODELS}
"""By the name in ``--hf-overrides``."""
