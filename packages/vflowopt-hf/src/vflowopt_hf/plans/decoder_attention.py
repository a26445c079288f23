"""Attention inside the decoder, by which later stages rank: one observed call of a layer's attention function."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt.components.stage_scoring import Heads
from vflowopt.errors import UnsupportedModelError, UnsupportedOperationError
from vflowopt_hf.plans.rotary import Rotary
from vflowopt_hf.vision.observing import attention_calls

# Scores held at once, in elements: 16 MiB of float32. Bounds memory whatever the length of the prompt.
_BLOCK = 1 << 22


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One call of a decoder layer's attention function: rows are the last of the slots.

    Attributes:
        query: [batch, heads, rows, head_dim], after any rotary embedding.
        key: [batch, key heads, slots, head_dim].
        scaling: factor of the scores.
        mask: as the function got it: ``None`` (plain causal), [batch or 1, heads or 1, rows, slots] boolean (True is
            seen) or additive, or [batch, slots] for flash attention.
        window: slots that a row looks back on, itself included, where the mask does not hold the window.
        value: [batch, key heads, slots, head_dim]; ``None`` where nobody asks for it.
        bias: float32 [batch, slots], what is added to the scores besides; ``None`` if nothing.
        sinks: float32 [heads], a score in each head's softmax that belongs to no key; ``None`` if there is none.
        rotary: what queries and keys were turned by; ``None`` if by nothing, or where nobody asks for it.
    """

    query: Tensor
    key: Tensor
    scaling: float
    mask: Tensor | None
    window: int | None = None
    value: Tensor | None = None
    bias: Tensor | None = None
    sinks: Tensor | None = None
    rotary: Rotary | None = None

    def without_room(self, used: Tensor) -> "AttentionCall":
        """The same call where the slots are those of a static cache, which begins with the used ones.

        Args:
            used: number of used slots, int64 without an axis, on any device.
        """
        rows, slots = self.query.shape[2], self.key.shape[2]
        if self.mask is None:  # plain causal attention from the first slot on: the cache was empty
            value = None if self.value is None else self.value[:, :, :rows]
            bias = None if self.bias is None else self.bias[:, :rows]
            return replace(self, key=self.key[:, :, :rows], value=value, bias=bias)
        order = (torch.arange(slots, device=self.key.device) + used.to(self.key.device)) % slots
        value = None if self.value is None else self.value[:, :, order]
        bias = None if self.bias is None else self.bias[:, order]
        return replace(self, key=self.key[:, :, order], value=value, mask=self.mask[..., order], bias=bias)

    def received(self, sample: int, rows: Tensor, weights: Tensor, heads: Heads = "mean") -> Tensor:
        """Weighted sum over some rows of the softmax's mean or maximum over heads.

        Args:
            sample: index in the batch.
            rows: int64 [queries].
            weights: float32 [queries].
            heads: "mean" or "max".

        Returns:
            float32 [slots].
        """
        total = torch.zeros(self.key.shape[2], device=self.query.device)
        for part, attention in self._blocks(sample, rows):
            total += weights[part] @ (attention.mean(dim=(0, 1)) if heads == "mean" else attention.amax(dim=(0, 1)))
        return total

    def received_by_head(self, sample: int, rows: Tensor, slots: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum over some rows of what each head of the softmax gives to some slots.

        Args:
            sample: index in the batch.
            rows: int64 [queries].
            slots: int64 [keys].
            weights: float32 [queries, keys].

        Returns:
            float32 [heads, keys].
        """
        total = torch.zeros(self.query.shape[1], len(slots), device=self.query.device)
        for part, attention in self._blocks(sample, rows):
            total += (attention[..., slots] * weights[part]).sum(dim=2).flatten(0, 1)
        return total

    def _blocks(self, sample: int, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Attention of some rows, part by part: float32 [groups, heads per group, queries, slots]."""
        query, key = self.query[sample, :, rows].float() * self.scaling, self.key[sample].float()
        groups, slots = key.shape[0], key.shape[1]
        count, queries, size = query.shape
        query, keys = query.view(groups, count // groups, queries, size), key[:, None].transpose(2, 3)
        step = max(1, _BLOCK // (count * slots))
        for start in range(0, queries, step):
            part = slice(start, start + step)
            scores = self._masked(query[:, :, part] @ keys, sample, rows[part])
            if self.sinks is not None:
                sinks = self.sinks.float().view(groups, -1, 1, 1).expand(*scores.shape[:3], 1)
                scores = torch.cat([scores, sinks], dim=-1)
            yield part, scores.softmax(dim=-1)[..., :slots]

    def _masked(self, scores: Tensor, sample: int, rows: Tensor) -> Tensor:
        """Scores [groups, heads per group, queries, slots] as the layer's softmax sees them."""
        slots, hidden = scores.shape[-1], torch.finfo(scores.dtype).min
        if self.bias is not None:
            scores = scores + self.bias[sample, :slots]
        if self.mask is not None and not isinstance(self.mask, Tensor):
            raise UnsupportedOperationError(
                f"the decoder's attention uses masks of type {type(self.mask).__name__}, by which tokens cannot be "
                f"ranked; load the model with attn_implementation='sdpa'"
            )
        if self.mask is not None and self.mask.ndim == 4:
            mask = self.mask[sample if len(self.mask) > 1 else 0][:, rows, :slots]
            mask = mask[None] if len(mask) == 1 else mask.view(*scores.shape[:2], *mask.shape[1:])
            return scores.masked_fill(~mask, hidden) if mask.dtype == torch.bool else scores + mask.float()
        slot = torch.arange(slots, device=scores.device)
        own = (rows + slots - self.query.shape[2])[:, None]
        seen = slot <= own
        if self.window is not None:
            seen = seen & (slot > own - self.window)
        if self.mask is not None:
            seen = seen & self.mask[sample, :slots].bool()
        return scores.masked_fill(~seen, hidden)


def require_masks(implementation: str) -> None:
    """Check that an attention implementation hands masks around that can be read.

    Raises:
        UnsupportedOperationError: it does not.
    """
    if "flex" in implementation:
        raise UnsupportedOperationError(
            f"attention {implementation!r} has no masks of numbers, by which tokens could be ranked; load the model "
            f"with attn_implementation='sdpa', or use a scorer that does not need the decoder's attention"
        )


def attention_module(layer: nn.Module) -> nn.Module:
    """The attention module of a decoder layer.

    Raises:
        UnsupportedModelError: it is not where transformers' decoders have it.
    """
    attention = getattr(layer, "self_attn", getattr(layer, "mixer", None))
    if not isinstance(attention, nn.Module):
        raise UnsupportedModelError(
            f"{type(layer).__name__} has no attention module self_attn or mixer to observe; use a scorer that does not "
            f"need the decoder's attention"
        )
    return attention


@contextmanager
def observe_attention(
    module: nn.Module, note: Callable[[AttentionCall], None], around: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Hand every call of a decoder layer's attention function to ``note`` inside the block.

    Args:
        module: the layer's attention module.
        note: called with every call.
        around: see :func:`attention_calls`.

    Raises:
        UnsupportedModelError: see :func:`attention_calls`.
    """

    def seen(query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: Any, options: Mapping[str, Any]) -> None:
        window = options.get("sliding_window")
        sinks = options.get("s_aux")
        sinks = None if sinks is None else sinks.detach()
        note(AttentionCall(query.detach(), key.detach(), scaling, mask, window, value.detach(), sinks=sinks))

    with attention_calls(module, seen, around):
        yield
