"""Attention masks of pruned layers, taken from the logical masks that upstream made."""

import torch
from torch import Tensor

from vflowopt.errors import UnsupportedOperationError


def pruned_mask(
    mask: object,
    query: Tensor,
    query_valid: Tensor | None,
    key: Tensor,
    key_valid: Tensor | None,
    *,
    first: int,
    implementation: str,
) -> Tensor | None:
    """Rows and columns of the retained tokens.

    Args:
        mask: what upstream made for all tokens: ``None`` (plain causal), [batch, 1, queries, keys] boolean or additive,
            or [batch, keys] for flash attention.
        query: int64 [batch, rows], row of each retained query in ``mask``.
        query_valid: bool [batch, rows], or ``None`` if no row is filler.
        key: int64 [batch, slots], logical index of each stored key. The queries are the last of them.
        key_valid: bool [batch, slots], or ``None``.
        first: logical index of the mask's first column. Not 0 if older keys are outside all queries' sliding window.
        implementation: the decoder's attention implementation.

    Returns:
        The mask of the retained tokens; ``None`` stays ``None`` where plain causal attention over the retained tokens
        is right, which keeps the fast paths.

    Raises:
        UnsupportedOperationError: a kind of mask that cannot be indexed.
    """
    column = key
    if first:
        inside = key >= first
        key_valid = inside if key_valid is None else inside & key_valid
        column = (key - first).clamp(min=0)
    if mask is None:
        if key_valid is None:
            return None
        if "flash" in implementation:
            return key_valid
        if implementation not in ("sdpa", "eager"):
            raise UnsupportedOperationError(
                f"samples of a batch retain different numbers of tokens, which attention {implementation!r} is not "
                f"supported for; use sdpa, eager or flash attention, or batches of equal inputs"
            )
        # Stored order is logical order, so causality is decided by slot number alone.
        first = key.shape[1] - query.shape[1]
        rows = torch.arange(first, key.shape[1], device=key.device)
        causal = torch.arange(key.shape[1], device=key.device)[None, :] <= rows[:, None]
        return _hide_filler(causal[None, None].expand(len(key), -1, -1, -1), query_valid, key_valid)
    if not isinstance(mask, Tensor):
        raise UnsupportedOperationError(
            f"the attention implementation {implementation!r} uses masks of type {type(mask).__name__}, which cannot "
            f"be reduced to the retained tokens; load the model with attn_implementation='sdpa'"
        )
    batch = len(key)
    if mask.ndim == 2:
        columns = mask.expand(batch, -1).gather(1, column)
        return columns if key_valid is None else columns * key_valid.to(columns.dtype)
    sample = torch.arange(batch, device=mask.device)[:, None, None]
    logical = mask.expand(batch, -1, -1, -1).transpose(1, 2)  # heads behind the indexed axes
    taken = logical.transpose(2, 3)[sample, query[:, :, None], column[:, None, :]]  # [batch, rows, slots, heads]
    return _hide_filler(taken.permute(0, 3, 1, 2), query_valid, key_valid)


def _hide_filler(mask: Tensor, query_valid: Tensor | None, key_valid: Tensor | None) -> Tensor:
    """Hide invalid keys from all queries, and let filler queries see only themselves (never nothing: no NaN)."""
    if key_valid is None:
        return mask
    hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    seen = True if mask.dtype == torch.bool else 0.0
    mask = mask.masked_fill(~key_valid[:, None, None, :], hidden)
    if query_valid is None:
        return mask
    rows, slots = mask.shape[2:]
    itself = torch.eye(rows, slots, dtype=torch.bool, device=mask.device).roll(slots - rows, dims=1)
    return mask.masked_fill((~query_valid)[:, None, :, None] & itself, seen)
