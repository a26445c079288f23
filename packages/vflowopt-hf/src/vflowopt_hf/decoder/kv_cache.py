"""The shape of a model's KV cache, read from its configuration."""

from collections.abc import Sequence
from typing import Any

from vflowopt.budgets.kv_cache import CacheShape
from vflowopt_hf.decoder.layer_kinds import has_keys, stores_keys
from vflowopt_hf.decoder.windows import sliding_window
from vflowopt_hf.family import Family


def cache_shape(family: Family, model: Any) -> CacheShape:
    """Bytes of a row in each layer, and how many rows layers with a sliding window keep.

    Raises:
        UnsupportedOperationError: a layer has neither full nor sliding-window attention, and is not recurrent.
    """
    decoder = family.decoder(model)
    config, size = decoder.config, next(decoder.parameters()).element_size()
    layers = range(num_layers(family, model))
    windows = (sliding_window(config, layer) if has_keys(config, layer) else None for layer in layers)
    return CacheShape(
        row_bytes=tuple(size * _row_values(config, layer) for layer in layers),
        limits=tuple(None if window is None else window - 1 for window in windows),
    )


def _row_values(config: Any, layer: int) -> int:
    """How many numbers a layer stores of one row."""
    if not stores_keys(config, layer):
        return 0
    own = config.per_layer_config[layer]
    rank = getattr(own, "kv_lora_rank", None)
    if rank is not None:  # multi-head latent attention stores one latent vector and one rotated key
        return int(rank + own.qk_rope_head_dim)
    head = getattr(own, "head_dim", None) or own.hidden_size // own.num_attention_heads
    heads = getattr(own, "num_key_value_heads", None) or own.num_attention_heads
    return int(2 * heads * head)


def num_layers(family: Family, model: Any) -> int:
    """Decoder layers L."""
    return len(family.decoder(model).layers)  # type: ignore[arg-type]


def kv_bytes(family: Family, model: Any, lengths: Sequence[int]) -> int:
    """Bytes of keys and values of one sample after a prefill.

    Args:
        family: of the model.
        model: the model.
        lengths: rows that each decoder layer processes; a layer with a sliding window keeps the last of them only.
    """
    return cache_shape(family, model).bytes(lengths)
