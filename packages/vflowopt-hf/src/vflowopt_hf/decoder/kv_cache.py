"""The shape of a model's KV cache, read from its configuration."""

from collections.abc import Sequence
from typing import Any

from vflowopt.budgets.kv_cache import CacheShape
from vflowopt_hf.decoder.windows import sliding_window
from vflowopt_hf.family import Family


def cache_shape(family: Family, model: Any) -> CacheShape:
    """Bytes of a row, grouped key heads and dtype considered; a layer with a sliding window keeps the last rows only.

    Raises:
        UnsupportedOperationError: a layer has neither full nor sliding-window attention.
    """
    decoder = family.decoder(model)
    config: Any = decoder.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    windows = (sliding_window(config, layer) for layer in range(len(decoder.layers)))  # type: ignore[arg-type]
    return CacheShape(
        row_bytes=2 * heads * head * next(decoder.parameters()).element_size(),
        limits=tuple(None if window is None else window - 1 for window in windows),
    )


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
