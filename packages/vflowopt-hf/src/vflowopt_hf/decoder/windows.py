"""Sliding windows of decoder layers: which there are, and who sees to them when tokens are missing."""

from typing import Any

from vflowopt.errors import UnsupportedOperationError


def sliding_window(config: Any, layer: int) -> int | None:
    """How many tokens, itself included, a query of decoder layer ``layer`` looks back on; ``None`` for all of them.

    Args:
        config: a text configuration. Without ``layer_types`` all layers are alike, as in
            ``transformers.cache_utils.get_layer_types_and_kwargs``.
        layer: index of the layer.

    Raises:
        UnsupportedOperationError: the layer has neither full nor sliding-window attention.
    """
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is not None:
        kind = types[layer]
    elif window is not None:
        kind = "sliding_attention"
    else:
        kind = "full_attention" if getattr(config, "attention_chunk_size", None) is None else "chunked_attention"
    if kind not in ("full_attention", "sliding_attention"):
        raise UnsupportedOperationError(
            f"pruning inside the decoder needs full or sliding-window attention or recurrent layers, but decoder layer "
            f"{layer} has {kind!r}; this model cannot be pruned"
        )
    return window if kind == "sliding_attention" else None


def require_logical_window(
    window: int | None, length: int, queries: int, implementation: str, *, in_cache: bool
) -> None:
    """Check that the attention implementation keeps to a window that counts unpruned tokens.

    Masks hold the window in logical coordinates, which is what sdpa and eager attention go by. Flash attention counts
    stored tokens instead and so looks too far back, unless the tokens outside the window are hidden altogether:
    possible for a single query, whose window is that of the cache layer.

    Args:
        window: see :func:`sliding_window`.
        length: logical tokens after this forward.
        queries: logical tokens of this forward.
        implementation: the decoder's attention implementation.
        in_cache: the cache layer knows the window.

    Raises:
        UnsupportedOperationError: it does not.
    """
    if window is None or length <= window or implementation in ("sdpa", "eager"):
        return
    if "flash" in implementation and in_cache and queries == 1:
        return
    raise UnsupportedOperationError(
        f"attention {implementation!r} counts the sliding window of {window} tokens in retained tokens, which is wrong "
        f"for a sequence of {length}; load the model with attn_implementation='sdpa'"
    )
