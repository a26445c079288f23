"""FLOPs of a text decoder's prefill, counted from its layers and the rows of each."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from torch import nn

from vflowopt_hf.decoder.layer_kinds import has_keys, keys_of


def prefill_flops(decoder: Any, rows: Sequence[int], *, causal: bool = True) -> int:
    """FLOPs (two per multiply-add) of linear layers, convolutions and attention.

    Norms, rotations and activations are left out, and so are the recurrences of recurrent layers: a few per cent of the
    products around them. Sliding windows are not taken into account: sdpa and eager kernels compute the scores outside
    them, too. Of experts, those count that a token is sent to. Where a layer has fewer rows than the earlier one
    whose keys it reuses, they are taken for the last ones: no fewer pairs than causal attention needs.

    Args:
        decoder: a text decoder with ``layers``.
        rows: rows that each decoder layer processes.
        causal: count only the pairs that causal attention needs, as fast kernels compute; otherwise all of them, as
            ``torch.utils.flop_counter`` counts.
    """
    total = Fraction(0)
    for index, (layer, count) in enumerate(zip(decoder.layers, rows, strict=True)):
        total += 2 * count * _products(decoder.config, layer)
        if has_keys(decoder.config, index):
            keys = rows[keys_of(decoder.config, index)]
            pairs = count * keys - count * (count - 1) // 2 if causal else count * keys
            total += 2 * pairs * _widths(decoder.config.per_layer_config[index])
    return int(total)


def _products(config: Any, layer: nn.Module) -> Fraction:
    """Multiply-adds of one row outside attention."""
    found = Fraction(0)
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            found += module.in_features * module.out_features
        elif isinstance(module, nn.Conv1d):
            found += module.weight.numel()
        else:
            own = list(module.parameters(recurse=False))
            found += sum(weight.numel() for weight in own if weight.ndim == 2)  # a router's
            found += sum(Fraction(weight.numel() * _chosen(config), len(weight)) for weight in own if weight.ndim == 3)
    return found


def _chosen(config: Any) -> int:
    """How many experts a token is sent to."""
    chosen = getattr(config, "num_experts_per_tok", None)
    return int(config.top_k_experts if chosen is None else chosen)


def _widths(config: Any) -> int:
    """Numbers of all heads of a query and of what it gathers: scores, then the weighted sum of values."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    query = getattr(config, "qk_head_dim", None) or head
    value = getattr(config, "v_head_dim", None) or head
    return int(config.num_attention_heads * (query + value))
