"""Which tokens are padding: of a sample, and of a forward, told by whatever mask upstream passes around."""

from typing import Any

import torch
from torch import Tensor

from vflowopt.adapter import Inputs
from vflowopt.arrays import HostBools
from vflowopt.errors import InputError
from vflowopt_hf.decoder.layer_kinds import is_recurrent
from vflowopt_hf.upstream import cache_in


def without_padding(inputs: Inputs) -> dict[str, Any]:
    """A sample without the padding at its ends, so that its last row is its last token.

    Args:
        inputs: processor output of batch size 1 with input_ids [1, queries]. Whatever goes along the tokens (ids, mask,
            token types, positions) has the last two axes of the ids.

    Raises:
        InputError: the attention mask hides all tokens, or some between others.
    """
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.shape != ids.shape:
        return dict(inputs)
    present = mask[0].bool().cpu().numpy().nonzero()[0]
    if not len(present):
        raise InputError(f"the attention mask hides all {ids.shape[1]} tokens; pass the mask that the processor made")
    first, end = int(present[0]), int(present[-1]) + 1
    if end - first > len(present):
        raise InputError(
            f"the attention mask hides {end - first - len(present)} tokens between others; padding may stand only at "
            f"the ends of a sample"
        )
    return {
        name: value[..., first:end] if isinstance(value, Tensor) and value.shape[-2:] == ids.shape else value
        for name, value in inputs.items()
    }


def token_mask(mask: Any, queries: int, cache: Any) -> Any:
    """A mask of the forward's tokens, if upstream's mask is one of queries and keys made for a static cache.

    With a static cache, ``generate`` makes the decoder's masks ahead of the forward. In them the last query sees all
    tokens but the padding, wherever that is.

    Args:
        mask: as the backbone gets it: ``None``, [batch, past + queries], [batch or 1, 1, queries, keys] boolean or
            additive, or a dictionary of such by the type of the layers.
        queries: tokens of the forward.
        cache: the KV cache, or ``None``.

    Returns:
        bool [batch or 1, queries] in the place of a mask of queries and keys; anything else as it was given.
    """
    if not getattr(cache, "is_compileable", False):
        return mask
    if isinstance(mask, dict):
        mask = mask.get("full_attention")
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        return mask
    seen = mask[:, 0, -1]
    seen = seen if seen.dtype == torch.bool else seen == 0
    return seen.index_select(1, torch.arange(queries, device=seen.device) + cache.get_seq_length())


def without_needless_mask(arguments: dict[str, Any], present: HostBools, config: Any) -> dict[str, Any]:
    """A decoder's keyword arguments without a mask of which the host knows that it hides nothing.

    Upstream would read it back from the device to find that out, and then leave it away.

    Args:
        arguments: of the decoder.
        present: bool [batch, queries], False for padding.
        config: of the text decoder.

    Returns:
        The arguments as they are where the cache holds tokens already or there is none, as then upstream takes no mask
        for something else, and where a layer has a state.
    """
    mask, cache, kept = arguments.get("attention_mask"), cache_in(arguments), arguments.get("use_cache")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or not present.all():
        return arguments
    if cache is None and not (getattr(config, "use_cache", False) if kept is None else kept):
        return arguments
    filled = any(getattr(layer, "is_initialized", True) for layer in getattr(cache, "layers", ()))
    if filled or any(is_recurrent(config, layer) for layer in range(config.num_hidden_layers)):
        return arguments
    return {**arguments, "attention_mask": None}
