"""Observe one vision attention module without changing what it computes (:mod:`vflowopt_hf.observing`)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt.errors import StrategyError
from vflowopt_hf.observing import attention_calls
from vflowopt_hf.packing import packed_lengths

# Scores held at once, in elements: 16 MiB of float32. Bounds memory whatever the number of patches.
_BLOCK = 1 << 22

NO_CLASS_TOKEN = (
    "the vision tower has no class token; rank by the mean attention received instead (mean-attention, or source=mean "
    "where a scorer has it)"
)
"""Why there is no class attention, and what to do."""


class TorchAttention:
    """Streams attention received per patch from query and key (see :class:`vflowopt.attention.AttentionSource`).

    Views may differ in their number of positions; :meth:`received` needs views of one size.

    Args:
        query: [views, heads, positions, head_dim], after any rotary embedding, or one such tensor per view without the
            first axis.
        key: the same with [views, key heads, positions, head_dim].
        scaling: factor of the scores.
        class_tokens: leading positions that are no patches: seen by the softmax, excluded from the result.
    """

    def __init__(
        self, query: Tensor | Sequence[Tensor], key: Tensor | Sequence[Tensor], scaling: float, class_tokens: int = 0
    ) -> None:
        self._query = tuple(view.detach() for view in query)
        self._key = tuple(view.detach() for view in key)
        self._scaling, self._class_tokens = scaling, class_tokens

    @classmethod
    def joined(cls, sources: Iterable["TorchAttention"]) -> "TorchAttention":
        """One source over the views of several of one attention module; at least one."""
        first, *others = sources
        query = [*first._query, *(view for source in others for view in source._query)]
        key = [*first._key, *(view for source in others for view in source._key)]
        return cls(query, key, first._scaling, first._class_tokens)

    def __len__(self) -> int:
        return len(self._query)

    def views(self, rows: slice, patch_order: Tensor | None = None) -> "TorchAttention":
        """The source of some of the views, patch i of which is now what was patch ``patch_order[i]``."""
        query, key = self._query[rows], self._key[rows]
        if patch_order is not None:
            first, order = self._class_tokens, patch_order.to(self.device)
            order = torch.cat([torch.arange(first, device=self.device), order + first])
            query, key = tuple(view[:, order] for view in query), tuple(view[:, order] for view in key)
        return TorchAttention(query, key, self._scaling, self._class_tokens)

    @property
    def keys(self) -> tuple[Tensor, ...]:
        """Keys of the patches of each view, [key heads, patches, head_dim]."""
        return tuple(view[:, self._class_tokens :] for view in self._key)

    @property
    def device(self) -> torch.device:
        """Where query and key are."""
        return self._query[0].device

    def received(self, queries: Tensor | None = None, at_most: int | None = None) -> Tensor:
        """See :meth:`vflowopt.attention.AttentionSource.received`; never holds heads x patches x patches."""
        return self._total if queries is None else self._sums(queries, at_most)

    @cached_property
    def of_class_token(self) -> Tensor:
        """Attention that the class token, the first position, pays to each patch: float32 [views, patches].

        Raises:
            StrategyError: the vision tower has no class token.
        """
        if not self._class_tokens:
            raise StrategyError(f"class attention is needed, but {NO_CLASS_TOKEN}")
        rows = [self._column_sums(query[:, :1], key, None) for query, key in zip(self._query, self._key, strict=True)]
        return torch.stack(rows)[:, self._class_tokens :]

    @cached_property
    def _total(self) -> Tensor:
        """Over all queries: the first pass of every calibration, so worth keeping."""
        return self._sums(None, None)

    def _sums(self, queries: Tensor | None, at_most: int | None) -> Tensor:
        first = self._class_tokens
        query = [view[:, first:] for view in self._query]
        weight = None if queries is None else queries.float()
        if weight is not None and at_most is not None and at_most < query[0].shape[1]:
            # The selected rows come first in this order, so the first `at_most` rows hold them all.
            rows = weight.argsort(dim=-1, descending=True, stable=True)[:, : max(at_most, 1)]
            weight = weight.gather(1, rows)
            query = [view[:, chosen] for view, chosen in zip(query, rows, strict=True)]
        return torch.stack(
            [
                self._column_sums(query[view], self._key[view], None if weight is None else weight[view])[first:]
                for view in range(len(query))
            ]
        )

    def _column_sums(self, query: Tensor, key: Tensor, weight: Tensor | None) -> Tensor:
        """Weighted sum over query rows and mean over heads of the softmax of one view, float32 [positions]."""
        heads, rows, _ = query.shape
        positions = key.shape[1]
        keys = key.float().repeat_interleave(heads // key.shape[0], dim=0).transpose(1, 2)
        total = torch.zeros(positions, device=query.device)
        step = max(1, _BLOCK // (heads * positions))
        for start in range(0, rows, step):
            scores = (query[:, start : start + step].float() * self._scaling) @ keys
            attention = scores.softmax(dim=-1)
            if weight is not None:
                attention = attention * weight[None, start : start + step, None]
            total += attention.sum(dim=(0, 1))
        return total / heads


@dataclass
class VisionCapture:
    """Receives what the observed module does while a recording is open."""

    class_tokens: int
    _calls: list[TorchAttention] | None = None

    @property
    def is_recording(self) -> bool:
        """Whether a recording is open."""
        return self._calls is not None

    @contextmanager
    def recording(self) -> Iterator[list[TorchAttention]]:
        """The list fills with one source per call of its attention function inside the block.

        A module may call it once for all views, in a batch or packed into one sequence, or once per view.
        """
        calls: list[TorchAttention] = []
        self._calls = calls
        try:
            yield calls
        finally:
            self._calls = None

    def note(self, query: Tensor, key: Tensor, scaling: float, bounds: Tensor | None, mask: object) -> None:
        """Record one call of the attention function.

        Args:
            query: [views, heads, positions, head_dim]; views may be packed along the positions.
            key: [views, key heads, positions, head_dim].
            scaling: factor of the scores.
            bounds: see :func:`vflowopt_hf.packing.packed_lengths`.
            mask: the same.
        """
        if self._calls is None:
            return
        lengths = packed_lengths(bounds, mask)
        if lengths is None:
            self._calls.append(TorchAttention(query, key, scaling, self.class_tokens))
            return
        queries, keys = query[0].split(lengths, dim=1), key[0].split(lengths, dim=1)
        self._calls.append(TorchAttention(queries, keys, scaling, self.class_tokens))


@contextmanager
def capture_attention(module: nn.Module, class_tokens: int = 0) -> Iterator[VisionCapture]:
    """Observe ``module`` inside the block; its config is put back on exit.

    Args:
        module: an attention module of transformers that reads ``config._attn_implementation`` at every call.
        class_tokens: leading positions of the sequence that are no patches.

    Raises:
        UnsupportedModelError: the module has no config to select an attention function by.
    """
    capture = VisionCapture(class_tokens)

    def seen(query: Tensor, key: Tensor, scaling: float, mask: object, options: Mapping[str, Any]) -> None:
        capture.note(query, key, scaling, options.get("cu_seq_lens_q"), mask)

    with attention_calls(module, seen):
        yield capture
