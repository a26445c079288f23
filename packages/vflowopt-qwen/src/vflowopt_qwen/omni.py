"""The thinkers of Qwen2.5-Omni and Qwen3-Omni: Qwen2.5-VL and Qwen3-VL that listen, too; images, video, audio.

Audio tokens are text to vflowopt: always retained. The whole model keeps its thinker as ``model.thinker``, which
answers in text; the voice reads hidden states of the whole prompt, and pruning leaves some out.
"""

from typing import Any, ClassVar

from torch import nn

from vflowopt_hf.family import Family
from vflowopt_qwen.qwen2_5_vl import Qwen25VL
from vflowopt_qwen.qwen3_vl import Qwen3VL


class _Thinker(Family):
    """Up to transformers 5.23 a thinker has its towers beside ``model``, which is the decoder; then within it."""

    repeats_placeholders: ClassVar[bool] = False

    def backbone(self, model: Any) -> nn.Module:
        """The module that has the towers."""
        backbone: nn.Module = model.model if hasattr(model.model, "visual") else model
        return backbone

    def decoder(self, model: Any) -> nn.Module:
        """The text decoder."""
        decoder: nn.Module = getattr(model.model, "language_model", model.model)
        return decoder


class Qwen25Omni(_Thinker, Qwen25VL):
    """See the module's docstring."""

    name: ClassVar[str] = "qwen2.5-omni"


class Qwen3Omni(_Thinker, Qwen3VL):
    """See the module's docstring."""

    name: ClassVar[str] = "qwen3-omni"
