"""What a cache holds, read off its tensors."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from transformers.cache_utils import LinearAttentionCacheLayerMixin


def key_value_bytes(cache: Any) -> tuple[int, ...]:
    """Bytes of keys and values in each layer; 0 in those that have none."""
    return tuple(
        _bytes((getattr(layer, "keys", None), getattr(layer, "values", None))) for layer in getattr(cache, "layers", ())
    )


def state_bytes(cache: Any) -> int:
    """Bytes of the states of recurrent layers.

    Args:
        cache: a cache, or ``None``.
    """
    recurrent = (layer for layer in getattr(cache, "layers", ()) if isinstance(layer, LinearAttentionCacheLayerMixin))
    return sum(_bytes((*layer.conv_states.values(), *layer.recurrent_states.values())) for layer in recurrent)


def _bytes(tensors: Iterable[Tensor | None]) -> int:
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
