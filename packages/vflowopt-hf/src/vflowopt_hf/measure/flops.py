"""FLOPs of a text decoder's prefill, counted from its configuration and the rows of each layer."""

from collections.abc import Sequence
from typing import Any


def prefill_flops(config: Any, rows: Sequence[int], *, causal: bool = True) -> int:
    """FLOPs (two per multiply-add) of linear layers and attention; norms, rotations and activations are left out.

    Sliding windows are not taken into account: sdpa and eager kernels compute the scores outside them, too.

    Args:
        config: a text configuration of the Llama kind: grouped-query attention and a gated MLP.
        rows: rows that each decoder layer processes.
        causal: count only the pairs that causal attention needs, as fast kernels compute; otherwise all of them, as
            ``torch.utils.flop_counter`` counts.
    """
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    queries, keys = config.num_attention_heads * head, config.num_key_value_heads * head
    linear = config.hidden_size * (2 * queries + 2 * keys) + 3 * config.hidden_size * config.intermediate_size
    total = 0
    for count in rows:
        pairs = count * (count + 1) // 2 if causal else count * count
        total += 2 * count * linear + 2 * 2 * pairs * queries  # scores, then the weighted sum of values
    return total
