"""Replace the layers of a cache by ones that can skip tokens."""

from typing import Any, TypeAlias

from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, StaticLayer

from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.decoder.cache import PrunedLayer, PrunedSlidingLayer
from vflowopt_hf.decoder.quantized_cache import QUANTIZED, pruned_quantized
from vflowopt_hf.decoder.slots import PrunedState
from vflowopt_hf.decoder.static_cache import PrunedStaticLayer

AnyPrunedLayer: TypeAlias = PrunedLayer | PrunedStaticLayer

PRUNED: dict[type, Any] = {
    DynamicLayer: PrunedLayer,
    DynamicSlidingWindowLayer: PrunedSlidingLayer,
    StaticLayer: PrunedStaticLayer,
}


def layer_of(cache: Any, index: int) -> Any:
    """The cache's layer, created if the cache grows lazily.

    Raises:
        UnsupportedOperationError: there is no such layer that can skip tokens.
    """
    layer = _layer_of(cache, index)
    if _can_skip(layer):
        return layer
    what = f"has no layer {index}" if layer is None else f"has a {type(layer).__name__} for layer {index}"
    raise UnsupportedOperationError(
        f"this {type(cache).__name__} {what}, where a pruned prefill cannot be kept; use DynamicCache() "
        f"(cache_implementation='dynamic')"
    )


def _layer_of(cache: Any, index: int) -> Any:
    layers: Any = getattr(cache, "layers", ())
    blank = getattr(cache, "layer_class_to_replicate", None)
    while blank is not None and len(layers) <= index:
        layers.append(blank())
    return layers[index] if index < len(layers) else None


def _can_skip(layer: Any) -> bool:
    return isinstance(layer, PrunedState) or _pruned_kind(layer) is not None


def _pruned_kind(layer: Any) -> Any:
    """The class that stands for the layer's; ``None`` if there is none."""
    kind: Any = type(layer)
    return pruned_quantized(kind) if issubclass(kind, QUANTIZED) else PRUNED.get(kind)


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


def hold_whole(cache: Any, index: int, fixed: int) -> None:
    """Let a layer before the first stage know that those behind it are pruned, see :meth:`PrunedState.hold`.

    Args:
        cache: the cache.
        index: of the layer; one of another kind is left as it is.
        fixed: tokens of the forward before the text at its end.
    """
    if _can_skip(_layer_of(cache, index)):
        convert(cache, index).hold(fixed)


def first_pruned(cache: Any) -> AnyPrunedLayer | None:
    """The first layer of a cache that can skip tokens, converted; ``None`` if there is none."""
    return next((convert(cache, index) for index, layer in enumerate(cache.layers) if _can_skip(layer)), None)


def convert(cache: Any, index: int) -> AnyPrunedLayer:
    """Replace the cache's layer by one that can skip tokens, its content kept."""
    layer = layer_of(cache, index)
    if not isinstance(layer, PrunedState):
        layer = cache.layers[index] = _pruned_kind(layer)(layer)
    found: AnyPrunedLayer = layer
    return found


def pruned_layer(cache: Any, index: int) -> AnyPrunedLayer | None:
    """The cache's layer if it was filled while tokens were pruned, else ``None``."""
    layers = getattr(cache, "layers", ())
    if index >= len(layers):
        return None
    layer = layers[index]
    return layer if isinstance(layer, PrunedLayer | PrunedStaticLayer) and layer.history else None
