"""Which tokens of a forward are padding, told by whatever mask upstream passes around."""

from typing import Any

import torch
from torch import Tensor


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
