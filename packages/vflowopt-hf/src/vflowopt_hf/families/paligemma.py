"""PaliGemma 1 and 2: SigLIP tower, every patch a visual token, Gemma or Gemma 2 decoder; images, several images.

The prompt, visual tokens included, attends to itself in both directions; the answer is causal (upstream's masks, by
``token_type_ids``).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vflowopt_hf.families.pictures import picture_units
from vflowopt_hf.families.siglip_tower import SiglipFamily
from vflowopt_hf.family import Unit


class PaliGemma(SiglipFamily):
    """See the module's docstring."""

    name: ClassVar[str] = "paligemma"

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One unit per image."""
        return picture_units(arguments["pixel_values"], int(model.config.vision_config.patch_size))

    def answer_prompt(self, processor: Any, images: int, prompt: str, videos: int = 0) -> str:  # noqa: ARG002
        """Placeholders before the prompt: there is no chat template, the models are asked by task words."""
        return f"{processor.image_token * images}{prompt}"
