"""LLaVA-1.5: CLIP tower, one crop per image, Llama decoder; images, several images.

Its successors share the tower. CLIP's class token takes part in the tower's attention, but no feature is made of it
(``vision_feature_select_strategy="default"``): it is neither a patch nor a visual token.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.families.llava_family import LlavaFamily
from vflowopt_hf.families.pictures import picture_units
from vflowopt_hf.family import Unit
from vflowopt_hf.pixels import PixelStatistics


class Llava(LlavaFamily):
    """See the module's docstring."""

    name: ClassVar[str] = "llava"
    repeats_placeholders: ClassVar[bool] = True
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )
    class_tokens: ClassVar[int] = 1

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer that the projector uses.

        Raises:
            UnsupportedModelError: the tower is not CLIP, its class token is among the features, or the projector uses
                no layer with attention.
        """
        tower, strategy = model.config.vision_config.model_type, model.config.vision_feature_select_strategy
        if tower != "clip_vision_model":
            raise UnsupportedModelError(
                f"this {type(model).__name__} has a vision tower of type {tower!r}; the {self.name} adapter knows "
                f"'clip_vision_model'"
            )
        if strategy != "default":
            raise UnsupportedModelError(
                f"vision_feature_select_strategy={strategy!r} keeps CLIP's class token among the visual tokens; the "
                f"{self.name} adapter knows 'default'"
            )
        return super().vision_attention(model)

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One unit per image."""
        return picture_units(arguments["pixel_values"], int(model.config.vision_config.patch_size))
