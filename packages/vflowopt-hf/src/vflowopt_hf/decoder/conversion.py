"""Replace the layers of a cache by ones that can skip tokens."""

from typing import Any, TypeAlias

from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer, StaticLayer

from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.decoder.cache import PrunedLayer, PrunedSlidingLayer
from vflowopt_hf.decoder.slots import PrunedState
from vflowopt_hf.decoder.static_cache import PrunedStaticLayer

AnyPrunedLayer: TypeAlias = PrunedLayer | PrunedStaticLayer

PRUNED: dict[type, Any] = {
    DynamicLayer: PrunedLayer,
    DynamicSlidingWindowLayer: PrunedSlidingLayer,
    StaticLayer: PrunedStaticLayer,
}


def layer_of(cache: Cache, index: int) -> Any:
    """The cache's layer, created if the cache grows lazily.

    Raises:
        UnsupportedOperationError: there is no such layer that can skip tokens.
    """
    blank = getattr(cache, "layer_class_to_replicate", None)
    while blank is not None and len(cache.layers) <= index:
        cache.layers.append(blank())
    layer: Any = cache.layers[index]
    if type(layer) in PRUNED or isinstance(layer, PrunedState):
        return layer
    raise UnsupportedOperationError(
        f"pruning inside the decoder needs cache layers that keep keys and values of every token or of a sliding "
        f"window, dynamic, or static without a window, but layer {index} of {type(cache).__name__} is a "
        f"{type(layer).__name__}; use DynamicCache() (cache_implementation='dynamic')"
    )


def require_readable(layer: Any, implementation: str) -> None:
    """Check that an attention implementation can do with what a cache layer hands to it.

    Raises:
        UnsupportedOperationError: it takes the unused room of a static layer for tokens.
    """
    if "flash" in implementation and isinstance(layer, StaticLayer):
        raise UnsupportedOperationError(
            f"attention {implementation!r} cannot tell the unused slots of a pruned static cache from tokens; load the "
            f"model with attn_implementation='sdpa', or use DynamicCache() (cache_implementation='dynamic')"
        )


def convert(cache: Cache, index: int) -> AnyPrunedLayer:
    """Replace the cache's layer by one that can skip tokens, its content kept."""
    layer = layer_of(cache, index)
    if not isinstance(layer, PrunedState):
        layer = cache.layers[index] = PRUNED[type(layer)](layer)
    found: AnyPrunedLayer = layer
    return found


def pruned_layer(cache: Cache | None, index: int) -> AnyPrunedLayer | None:
    """The cache's layer if tokens are missing in it, else ``None``."""
    if cache is None or index >= len(cache.layers):
        return None
    layer = cache.layers[index]
    return layer if isinstance(layer, PrunedLayer | PrunedStaticLayer) and layer.history else None
