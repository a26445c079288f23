"""Hand what one cache holds over to another that is empty."""

from collections.abc import Sequence
from typing import Any

from transformers.cache_utils import Cache, DynamicCache, StaticLayer

from vflowopt_hf.decoder.cache import PrunedLayer
from vflowopt_hf.decoder.conversion import convert
from vflowopt_hf.decoder.slots import Slots


def can_be_filled(cache: Any) -> bool:
    """Whether :func:`fill` can do with a static cache that it gets."""
    return isinstance(cache, Cache) and not cache.offloading and all(type(one) is StaticLayer for one in cache.layers)


def fill(cache: Any, layers: Sequence[Any]) -> None:
    """Bring an empty cache to the state in which a prefill would have left it.

    Args:
        cache: a dynamic cache, which takes the layers over, or a static one, see :func:`can_be_filled`.
        layers: of a dynamic cache after the prefill.
    """
    if isinstance(cache, DynamicCache):
        cache.layers[:] = layers
        return
    known: dict[tuple[int, ...], Slots] = {}
    for index, layer in enumerate(layers):
        if isinstance(layer, PrunedLayer) and layer.history:
            _tell(convert(cache, index), layer, known)
        cache.update(layer.keys, layer.values, index)


def _tell(static: Any, layer: PrunedLayer, known: dict[tuple[int, ...], Slots]) -> None:
    """Let a static layer know what is stored next; layers with equal history share their slots."""
    stored = layer.stored_length()
    if layer.known is None:
        static.hold(layer.fixed)
    else:
        if layer.history not in known:
            logical = layer.known.logical
            room = Slots.consecutive(stored + layer.dropped, static.get_max_length(), len(logical), logical.device)
            known[layer.history] = Slots.joined([layer.known, room])
        static.skip(known[layer.history], skipped=layer.dropped, fixed=layer.fixed, stage=layer.history[-1])
    static.expect(stored)
