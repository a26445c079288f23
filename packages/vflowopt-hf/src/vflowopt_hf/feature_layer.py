"""Which layer of a vision tower a projector uses last: the one whose attention says what the features are made of."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from vflowopt.errors import UnsupportedModelError


def last_used_layer(layers: Sequence[nn.Module] | nn.ModuleList, vision_feature_layer: int | Sequence[int]) -> Any:
    """The layer behind the last hidden states that a projector uses.

    Args:
        layers: of the tower.
        vision_feature_layer: as in transformers' configurations: index into the hidden states, which are one more than
            layers (entry 0 is the embedding, entry i the output of layer i - 1), or several indices.

    Raises:
        UnsupportedModelError: the projector uses the embedding only.
    """
    chosen = [vision_feature_layer] if isinstance(vision_feature_layer, int) else vision_feature_layer
    entries = [entry % (len(layers) + 1) for entry in chosen]
    if not any(entries):
        raise UnsupportedModelError(
            f"vision_feature_layer={vision_feature_layer} selects the tower's embedding, which no attention has reached"
        )
    return layers[max(entries) - 1]
