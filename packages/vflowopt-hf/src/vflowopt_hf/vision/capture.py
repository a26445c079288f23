"""Observe one vision attention module without changing what it computes (:mod:`vflowopt_hf.vision.observing`)."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt.errors import StrategyError
from vflowopt_hf.vision.column_sums import column_sums
from vflowopt_hf.vision.observing import attention_calls

NO_CLASS_TOKEN = (
    "the vision tower has no class token; rank by the mean attention received instead (mean-attention, or source=mean "
    "where a scorer has it)"
)
"""Why there is no class attention, and what to do."""


NOT_CAPTURED = (
    "they were not captured: a component names what it reads in `needs`, and what was encoded before the strategy was "
    "known, as by a search, keeps neither values nor other layers"
)
"""Why something that a strategy would have got is not there."""


class TorchAttention:
    """Streams attention received per patch from query and key.

    See :class:`vflowopt.components.attention.AttentionSource`. Views may differ in their number of positions;
    :meth:`received` needs views of one size.

    Args:
        query: [views, heads, positions, head_dim], after any rotary embedding, or one such tensor per view without the
            first axis.
        key: the same with [views, key heads, positions, head_dim].
        scaling: factor of the scores.
        class_tokens: leading positions that are no patches: seen by the softmax, excluded from the result.
        value: the same as ``key``; ``None`` if nobody asks for it.
    """

    def __init__(
        self,
        query: Tensor | Sequence[Tensor],
        key: Tensor | Sequence[Tensor],
        scaling: float,
        class_tokens: int = 0,
        value: Tensor | Sequence[Tensor] | None = None,
    ) -> None:
        self._query = tuple(view.detach() for view in query)
        self._key = tuple(view.detach() for view in key)
        self._value = None if value is None else tuple(view.detach() for view in value)
        self._scaling, self._class_tokens = scaling, class_tokens
        self._known: dict[str, Tensor] = {}  # maps that scorers ask for again and again

    @classmethod
    def of_call(
        cls,
        query: Tensor,
        key: Tensor,
        scaling: float,
        bounds: Tensor | None,
        mask: object,
        class_tokens: int = 0,
        value: Tensor | None = None,
    ) -> "TorchAttention":
        """The source behind one call of an attention function.

        Args:
            query: [views, heads, positions, head_dim]; views may be packed along the positions.
            key: [views, key heads, positions, head_dim].
            scaling: factor of the scores.
            bounds: see :func:`packed_lengths`.
            mask: the same.
            class_tokens: of each view.
            value: as ``key``, if it is asked for.
        """
        lengths = packed_lengths(bounds, mask)
        if lengths is None:
            return cls(query, key, scaling, class_tokens, value)
        values = None if value is None else value[0].split(lengths, dim=1)
        return cls(query[0].split(lengths, dim=1), key[0].split(lengths, dim=1), scaling, class_tokens, values)

    @classmethod
    def joined(cls, sources: Iterable["TorchAttention"]) -> "TorchAttention":
        """One source over the views of several of one attention module; at least one."""
        first, *others = sources
        query = [*first._query, *(view for source in others for view in source._query)]
        key = [*first._key, *(view for source in others for view in source._key)]
        value = None
        if first._value is not None:
            value = [*first._value, *(view for source in others for view in source._value or ())]
        return cls(query, key, first._scaling, first._class_tokens, value)

    def __len__(self) -> int:
        return len(self._query)

    def views(self, rows: slice, patch_order: Tensor | None = None) -> "TorchAttention":
        """The source of some of the views, patch i of which is now what was patch ``patch_order[i]``."""
        query, key = self._query[rows], self._key[rows]
        value = None if self._value is None else self._value[rows]
        if patch_order is not None:
            first, order = self._class_tokens, patch_order.to(self.device)
            order = torch.cat([torch.arange(first, device=self.device), order + first])
            query, key = tuple(view[:, order] for view in query), tuple(view[:, order] for view in key)
            value = None if value is None else tuple(view[:, order] for view in value)
        return TorchAttention(query, key, self._scaling, self._class_tokens, value)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "TorchAttention":
        """The same source with query and key changed, for example moved; both share what they compute and remember."""
        query, key = [change(view) for view in self._query], [change(view) for view in self._key]
        value = None if self._value is None else [change(view) for view in self._value]
        source = TorchAttention(query, key, self._scaling, self._class_tokens, value)
        source._known = self._known
        return source

    @property
    def keys(self) -> tuple[Tensor, ...]:
        """Keys of the patches of each view, [key heads, patches, head_dim]."""
        return tuple(view[:, self._class_tokens :] for view in self._key)

    @property
    def values(self) -> tuple[Tensor, ...]:
        """Values of the patches of each view, [key heads, patches, head_dim].

        Raises:
            StrategyError: they were not captured.
        """
        if self._value is None:
            raise StrategyError(f"values of the vision tower are read, but {NOT_CAPTURED}")
        return tuple(view[:, self._class_tokens :] for view in self._value)

    @property
    def device(self) -> torch.device:
        """Where query and key are."""
        return self._query[0].device

    @property
    def has_class_token(self) -> bool:
        """Whether the tower has a class token."""
        return self._class_tokens > 0

    def received(self, queries: Tensor | None = None, at_most: int | None = None) -> Tensor:
        """See :meth:`vflowopt.components.attention.AttentionSource.received`; never holds heads x patches x patches."""
        return self._total if queries is None else self._sums(queries, at_most)

    @property
    def of_class_token(self) -> Tensor:
        """Attention that the class token pays to each patch: float32 [views, patches].

        Raises:
            StrategyError: the vision tower has no class token.
        """
        if "class" not in self._known:
            self._known["class"] = torch.stack(self.class_rows())
        return self._known["class"]

    def class_rows(self) -> list[Tensor]:
        """Attention that the class token, the first position, pays to each patch of each view: float32 [patches].

        Raises:
            StrategyError: the vision tower has no class token.
        """
        if not self._class_tokens:
            raise StrategyError(f"class attention is needed, but {NO_CLASS_TOKEN}")
        views = zip(self._query, self._key, strict=True)
        return [column_sums(query[:, :1], key, self._scaling)[self._class_tokens :] for query, key in views]

    @property
    def _total(self) -> Tensor:
        """Over all queries: the first pass of every calibration."""
        if "total" not in self._known:
            self._known["total"] = self._sums(None, None)
        return self._known["total"]

    def _sums(self, queries: Tensor | None, at_most: int | None) -> Tensor:
        first = self._class_tokens
        query = [view[:, first:] for view in self._query]
        weight = None if queries is None else queries.float()
        if weight is not None and at_most is not None and at_most < query[0].shape[1]:
            # The selected rows come first in this order, so the first `at_most` rows hold them all.
            rows = weight.argsort(dim=-1, descending=True, stable=True)[:, : max(at_most, 1)]
            weight = weight.gather(1, rows)
            query = [view[:, chosen] for view, chosen in zip(query, rows, strict=True)]
        weights = [None] * len(query) if weight is None else weight
        views = zip(query, self._key, weights, strict=True)
        return torch.stack([column_sums(rows, key, self._scaling, own)[first:] for rows, key, own in views])


class VisionCapture(threading.local):
    """Receives what the observed module does while a recording is open; every thread has recordings of its own."""

    def __init__(self, class_tokens: int, *, values: bool = False) -> None:
        self.class_tokens = class_tokens
        self._values = values
        self._calls: list[TorchAttention] | None = None

    @property
    def is_recording(self) -> bool:
        """Whether a recording is open in this thread."""
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

    def note(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, bounds: Tensor | None, mask: object
    ) -> None:
        """Record one call of the attention function, see :meth:`TorchAttention.of_call`."""
        if self._calls is not None:
            kept = value if self._values else None
            self._calls.append(TorchAttention.of_call(query, key, scaling, bounds, mask, self.class_tokens, kept))


@contextmanager
def capture_attention(module: nn.Module, class_tokens: int = 0, *, values: bool = False) -> Iterator[VisionCapture]:
    """Observe ``module`` inside the block; its config is put back on exit.

    Args:
        module: an attention module of transformers that reads ``config._attn_implementation`` at every call.
        class_tokens: leading positions of the sequence that are no patches.
        values: keep the values, too.

    Raises:
        UnsupportedModelError: the module has no config to select an attention function by.
    """
    capture = VisionCapture(class_tokens, values=values)

    def seen(
        query: Tensor, key: Tensor, value: Tensor, scaling: float, mask: object, options: Mapping[str, Any]
    ) -> None:
        capture.note(query, key, value, scaling, options.get("cu_seq_lens_q"), mask)

    with attention_calls(module, seen):
        yield capture


def packed_lengths(bounds: Tensor | None, mask: object) -> list[int] | None:
    """Positions of each view, if a tower packs several into one sequence, and so into one call.

    Args:
        bounds: int [views + 1], where packed views begin and end (``cu_seq_lens_q``), or ``None``.
        mask: the call's attention mask; tells views apart if it is [1, 1, positions, positions], boolean (True is seen)
            or additive, and lets every position see exactly those of its own view.

    Returns:
        Lengths in order; ``None`` if neither argument tells of packed views.
    """
    if bounds is not None:
        lengths: list[int] = bounds.diff().tolist()
        return lengths
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[:2] != (1, 1) or mask.shape[2] != mask.shape[3]:
        return None
    seen = mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] == 0
    first = seen.byte().argmax(dim=1)  # the first position that each one sees: that of its view
    if (first.diff() < 0).any() or not torch.equal(seen, first[:, None] == first):
        return None
    counted: list[int] = first.unique_consecutive(return_counts=True)[1].tolist()
    return counted
