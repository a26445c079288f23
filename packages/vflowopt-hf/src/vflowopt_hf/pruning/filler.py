"""Prompts of nearly equal length as one shape: their text is filled up, at its end, to one of few lengths.

No token sees what comes after it where attention is causal. So filler changes nothing for the prompt and needs no mask,
which keeps the fast paths. What it leaves in the output and in the KV cache is cut off.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from vflowopt import Strategy
from vflowopt.components.stage_scoring import DECODER_ATTENTION
from vflowopt.strategies.strategy import components_of
from vflowopt_hf.decoder.layer_kinds import has_keys
from vflowopt_hf.graphs.trees import changed, tensors_of

LEAST, PARTS = 32, 4
"""Steps between lengths: so many tokens, and of longer texts so many from one power of two to the next."""

READS_TEXT = frozenset({"text", DECODER_ATTENTION})
"""What a component needs that looks at the rows of a prompt's text, or at which one is its last."""

FURTHER_OUTPUTS = ("output_hidden_states", "output_attentions", "output_router_logits")
"""What asks a decoder for more that has a row per token than its last hidden states."""

POSITIONS, LAST_ROWS = "position_ids", "logits_to_keep"


def filled(text: int) -> int:
    """To how many tokens a text is filled up.

    Questions have a few dozen tokens, so that most applications meet two or three lengths. Of a text of more than 128
    tokens less than a quarter is added.

    Args:
        text: tokens after the last visual one.
    """
    step = max(LEAST, (1 << max(0, text - 1).bit_length()) // (2 * PARTS))
    return -(-text // step) * step


def reads_text(strategy: Strategy) -> bool:
    """Whether anything that a strategy decides depends on the text after the visual tokens."""
    return any(component.needs & READS_TEXT for component in components_of(strategy))


def hides_filler(decoder: nn.Module) -> bool:
    """Whether all layers of a decoder are causal attention, so that no row depends on those that follow it."""
    config: Any = decoder.config
    causal = all(getattr(part, "is_causal", True) for part in (config, *decoder.modules()))
    both_ways = getattr(config, "use_bidirectional_attention", None)
    attends = all(has_keys(config, layer) for layer in range(config.num_hidden_layers))
    return causal and attends and not both_ways


def can_be_filled_up(arguments: Mapping[str, Any], shape: tuple[int, int], rows: int, config: Any) -> bool:
    """Whether it is known where a decoder's call is to have filler, and what to cut off from what it returns.

    Args:
        arguments: keyword arguments of the decoder.
        shape: batch and tokens.
        rows: of filler.
        config: of the decoder.
    """
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and shape[1] + rows > most:  # a learned embedding has no more
        return False
    if any(arguments.get(name) or getattr(config, name, False) for name in FURTHER_OUTPUTS):
        return False
    others = tensors_of({name: value for name, value in arguments.items() if name != POSITIONS})
    return all(shape[1] not in tensor.shape or tensor.shape[:2] == shape for tensor in others)


def with_filler(arguments: Mapping[str, Any], shape: tuple[int, int], rows: int) -> dict[str, Any]:
    """The arguments of a call whose last token is repeated, at the positions that follow, and that returns all rows.

    Args:
        arguments: see :func:`can_be_filled_up`.
        shape: batch and tokens.
        rows: how often.
    """

    def repeated(tensor: Tensor) -> Tensor:
        if tensor.shape[:2] != shape:
            return tensor
        return torch.cat([tensor, tensor[:, -1:].expand(-1, rows, *tensor.shape[2:])], dim=1)

    def counted_on(positions: Any) -> Any:
        if not isinstance(positions, Tensor):
            return positions
        following = positions[..., -1:] + torch.arange(1, rows + 1, device=positions.device)
        return torch.cat([positions, following], dim=-1)

    return {
        name: counted_on(value) if name == POSITIONS else changed(value, repeated)
        for name, value in arguments.items()
        if name != LAST_ROWS
    }


def rows_asked(arguments: Mapping[str, Any], rows: int) -> slice:
    """Which rows of those that a call with filler returns its caller has asked for.

    Args:
        arguments: before they had filler.
        rows: of filler.
    """
    last = arguments.get(LAST_ROWS) or 0
    return slice(-(last + rows) if last else None, -rows or None)


def remembers(cache: Cache) -> bool:
    """Whether layers of a cache with a sliding window keep what leaves it, to be able to go back."""
    return any(getattr(layer, "record_past", False) for layer in cache.layers)


def cut_off(layers: Sequence[Any], rows: int, remember: bool) -> None:
    """Bring the layers of a cache to the state in which the prompt alone would have left them.

    Args:
        layers: filled while those with a sliding window kept what left it (``Cache.activate_past_recording``).
        rows: of filler.
        remember: whether they are to go on with that; there is no filler then.
    """
    for layer in layers:
        if not remember:
            layer.crop(-rows)
        if hasattr(layer, "record_past"):
            layer.record_past = remember
