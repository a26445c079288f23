"""What the LLaVA families have in common: names of modules, and which layer of the tower the projector uses."""

from typing import Any

from torch import nn

from vflowopt_hf.family import Family
from vflowopt_hf.feature_layer import last_used_layer
from vflowopt_hf.upstream import feature_layer


class LlavaFamily(Family):
    """A vision tower, a projector that takes some of its hidden states, and a text decoder."""

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer that the projector uses.

        Raises:
            UnsupportedModelError: the projector uses no layer with attention.
        """
        tower = model.model.vision_tower
        layers = getattr(tower, "vision_model", tower).encoder.layers
        attention: nn.Module = last_used_layer(layers, feature_layer(model.config)).self_attn
        return attention
