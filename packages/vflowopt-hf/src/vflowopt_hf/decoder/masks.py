"""Attention masks of pruned layers, taken from the logical masks that upstream made."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from torch.nn.functional import pad

from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.decoder.slots import Slots


def holds_bias(implementation: str) -> bool:
    """Whether an attention implementation takes masks of numbers, which can hold a bias of keys."""
    return implementation in ("sdpa", "eager")


def pruned_mask(
    mask: Any,
    query: Slots | None,
    key: Slots,
    *,
    rows: int,
    start: int | Tensor,
    first: int,
    implementation: str,
    dtype: torch.dtype,
) -> Any:
    """Rows and columns of the retained tokens.

    Args:
        mask: what upstream made for all tokens: ``None`` (plain causal), [batch, 1, queries, keys] boolean or additive,
            [batch, keys] for flash attention, or a block mask for flex attention.
        query: row of each retained query in ``mask``; ``None`` if all are retained.
        key: the stored keys by logical index.
        rows: number of retained queries.
        start: slot of the first of them.
        first: logical index of the mask's first column. Not 0 if older keys are outside all queries' sliding window.
        implementation: the decoder's attention implementation.
        dtype: of the layer's states, and so of masks of numbers.

    Returns:
        The mask of the retained tokens, with the bias of their keys where it can hold it; ``None`` stays ``None`` where
        plain causal attention over the retained tokens is right, which keeps the fast paths.

    Raises:
        UnsupportedOperationError: a kind of mask that cannot be indexed.
    """
    if first:
        inside = key.known_valid & (key.logical >= first)
        key = replace(key, logical=(key.logical - first).clamp(min=0), valid=inside)
    taken = _taken(mask, query, key, rows, start, implementation)
    if key.bias is None or not holds_bias(implementation):
        return taken
    return _with_bias(taken, key.bias[:, None, None, :], dtype)


def _taken(mask: Any, query: Slots | None, key: Slots, rows: int, start: int | Tensor, implementation: str) -> Any:
    """Rows and columns of the retained tokens, without the bias of their keys."""
    if mask is None:
        return _causal_mask(query, key, rows, start, implementation)
    if isinstance(mask, BlockMask):
        return _block_mask(mask, query, key, rows, start)
    if not isinstance(mask, Tensor):
        raise UnsupportedOperationError(
            f"the attention implementation {implementation!r} uses masks of type {type(mask).__name__}, which cannot "
            f"be reduced to the retained tokens; load the model with attn_implementation='sdpa'"
        )
    batch = len(key.logical)
    if mask.ndim == 2:
        columns = mask.expand(batch, -1).gather(1, key.logical)
        return columns if key.valid is None else columns * key.valid.to(columns.dtype)
    mask = mask.expand(batch, -1, -1, -1)
    if query is None:
        taken = mask.gather(3, key.logical[:, None, None, :].expand(-1, *mask.shape[1:3], -1))
    else:
        sample = torch.arange(batch, device=mask.device)[:, None, None]
        last = mask.permute(0, 2, 3, 1)[sample, query.logical[:, :, None], key.logical[:, None, :]]  # heads last
        taken = last.permute(0, 3, 1, 2)
    return _hide_filler(taken, query, key, rows, start)


def _with_bias(mask: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask of numbers, the bias [batch, 1, 1, keys] of its keys added."""
    if mask.dtype == torch.bool:
        return torch.where(mask, bias.to(dtype), torch.finfo(dtype).min)
    return mask + bias.to(mask.dtype)


def unmasked_step(known: Slots, slots: int, dtype: torch.dtype) -> Tensor:
    """The same for one query per sample that sees every token: [batch, 1, 1, slots].

    Args:
        known: tokens of the first slots, with filler or a bias; from there on none is missing.
        slots: how many there are.
        dtype: of the layer's states, and so of masks of numbers.
    """
    seen = known.valid if known.bias is None else known.bias.to(dtype)
    assert seen is not None
    if known.bias is not None and known.valid is not None:
        seen = seen.masked_fill(~known.valid, torch.finfo(dtype).min)
    return pad(seen[:, None, None], (0, slots - seen.shape[1]), value=float(known.bias is None))


def step_mask(mask: Tensor, known: Slots, following: int, dtype: torch.dtype) -> Tensor:
    """The same for one query per sample, whose mask begins with the first token: with few operators.

    Args:
        mask: [batch or 1, 1, 1, keys] boolean or additive.
        known: tokens of the first slots.
        following: index of the token in the slot after them; from there on none is missing.
        dtype: of the layer's states, and so of masks of numbers.
    """
    batch, slots = known.logical.shape
    first = mask.expand(batch, -1, -1, -1).gather(3, known.logical.view(batch, 1, 1, slots))
    if known.valid is not None:
        hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        first = torch.where(known.valid.view(batch, 1, 1, slots), first, hidden)
    rest = mask[..., following:].expand(batch, -1, -1, -1)
    if known.bias is not None:
        first = _with_bias(first, known.bias.view(batch, 1, 1, slots), dtype)
        rest = _with_bias(rest, rest.new_zeros((), dtype=dtype), dtype)
    return torch.cat([first, rest], dim=3)


def _causal_mask(query: Slots | None, key: Slots, rows: int, start: int | Tensor, implementation: str) -> Tensor | None:
    if key.valid is None and (key.bias is None or not holds_bias(implementation)):
        return None
    if "flash" in implementation:
        return key.valid
    if not holds_bias(implementation):
        raise UnsupportedOperationError(
            f"samples of a batch retain different numbers of tokens, which attention {implementation!r} is not "
            f"supported for; use sdpa, eager, flash or flex attention, or batches of equal inputs"
        )
    # Stored order is logical order, so causality is decided by slot number alone.
    batch, slots = key.logical.shape
    causal = torch.arange(slots, device=key.logical.device) <= _own_slots(key, rows, start)
    return _hide_filler(causal[None, None].expand(batch, -1, -1, -1), query, key, rows, start)


def _block_mask(mask: BlockMask, query: Slots | None, key: Slots, rows: int, start: int | Tensor) -> BlockMask:
    """The same for flex attention, which asks a function about each query and key."""
    seen, (batch, slots), device = mask.mask_mod, key.logical.shape, key.logical.device
    row = torch.arange(rows, device=device).expand(batch, -1) if query is None else query.logical
    valid, own = key.known_valid, _own_slots(key, rows, start)[:, 0]

    def retained(sample: Tensor, head: Tensor, query_row: Tensor, slot: Tensor) -> Tensor:
        logical = seen(sample, head, row[sample, query_row], key.logical[sample, slot])
        return (logical & valid[sample, slot]) | (own[query_row] == slot)

    return create_block_mask(retained, batch, None, rows, slots, device=device, _compile=True)


def _own_slots(key: Slots, rows: int, start: int | Tensor) -> Tensor:
    """The slot of each query, int64 [rows, 1]."""
    return (torch.arange(rows, device=key.logical.device) + start)[:, None]


def _hide_filler(mask: Tensor, query: Slots | None, key: Slots, rows: int, start: int | Tensor) -> Tensor:
    """Hide invalid keys from all queries, and let filler queries see only themselves (never nothing: no NaN)."""
    if key.valid is None:
        return mask
    hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    seen = True if mask.dtype == torch.bool else 0.0
    mask = mask.masked_fill(~key.valid[:, None, None, :], hidden)
    if query is None or query.valid is None:
        return mask
    itself = torch.arange(mask.shape[3], device=mask.device) == _own_slots(key, rows, start)
    return mask.masked_fill((~query.valid)[:, None, :, None] & itself, seen)
