"""What the LLaVA families have in common: names of modules, and which layer of the tower the projector uses."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.family import Family


class LlavaFamily(Family):
    """A vision tower, a projector that takes some of its hidden states, and a text decoder."""

    def backbone(self, model: Any) -> nn.Module:
        """The multimodal model without its head."""
        backbone: nn.Module = model.model
        return backbone

    def decoder(self, model: Any) -> nn.Module:
        """The text decoder, whatever its architecture."""
        decoder: nn.Module = model.model.language_model
        return decoder

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer that the projector uses.

        Raises:
            UnsupportedModelError: the projector uses no layer with attention.
        """
        tower = model.model.vision_tower
        layers = getattr(tower, "vision_model", tower).encoder.layers
        chosen = model.config.vision_feature_layer
        # Hidden states are one more than layers: entry 0 is the embedding, entry i the output of layer i - 1.
        entries = [entry % (len(layers) + 1) for entry in ([chosen] if isinstance(chosen, int) else chosen)]
        if not any(entries):
            raise UnsupportedModelError(
                f"vision_feature_layer={chosen} selects the tower's embedding, which no attention has reached"
            )
        attention: nn.Module = layers[max(entries) - 1].self_attn
        return attention

    def placeholder_ids(self, model: Any) -> Mapping[str, int]:
        """``<image>``, and ``<video>`` where the model has one."""
        config = model.config
        ids = {"image": config.image_token_id, "video": getattr(config, "video_token_id", None)}
        return {modality: token for modality, token in ids.items() if token is not None}
