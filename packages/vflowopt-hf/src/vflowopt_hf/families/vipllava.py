"""ViP-LLaVA: LLaVA-1.5 whose projector takes the hidden states of several tower layers; images, several images."""

from typing import Any, ClassVar

from torch import nn

from vflowopt_hf.families.llava import Llava
from vflowopt_hf.families.llava_family import LlavaFamily


class VipLlava(Llava):
    """See the module's docstring."""

    name: ClassVar[str] = "vipllava"

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer that the projector uses; upstream always cuts the class token off.

        Raises:
            UnsupportedModelError: the projector uses no layer with attention.
        """
        return LlavaFamily.vision_attention(self, model)
