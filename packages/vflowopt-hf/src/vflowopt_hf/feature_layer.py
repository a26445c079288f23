"""Which layer of a vision tower a projector uses last: the one whose attention says what the features are made of.

And the layers before it.
"""

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
        UnsupportedModelError: the projector uses the embedding only, or the tower lacks a layer.
    """
    chosen = [vision_feature_layer] if isinstance(vision_feature_layer, int) else vision_feature_layer
    states = len(layers) + 1
    if not all(-states <= entry < states for entry in chosen):
        raise UnsupportedModelError(
            f"vision_feature_layer={vision_feature_layer} is none of the tower's {states} hidden states; correct the "
            f"model's config.json"
        )
    entries = [entry % states for entry in chosen]
    if not any(entries):
        raise UnsupportedModelError(
            f"vision_feature_layer={vision_feature_layer} selects the tower's embedding, which no attention has reached"
        )
    return layers[max(entries) - 1]


def layers_up_to(root: nn.Module, attention: nn.Module) -> tuple[nn.Module, ...]:
    """The attention modules of a stack of layers, up to a given one, in their order.

    Args:
        root: a module with the stack somewhere in it.
        attention: part of a layer of the stack; the innermost ``ModuleList`` around it is the stack.

    Returns:
        Of each layer the module in the same place, as far as it is of the same class; ``attention`` is the last. It is
        the only one if it stands in no stack.
    """
    names = [name for name, module in root.named_modules() if module is attention]
    path = names[0].split(".") if names else []
    for place in reversed(range(len(path))):
        stack = root.get_submodule(".".join(path[:place]))
        if isinstance(stack, nn.ModuleList):
            within = ".".join(path[place + 1 :])
            found = (dict(layer.named_modules()).get(within) for layer in stack[: int(path[place]) + 1])
            return tuple(module for module in found if type(module) is type(attention))
    return (attention,)
