"""Observe one vision attention module without changing what it computes (:mod:`vflowopt_hf.vision.observing`)."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt.errors import StrategyError
from vflowopt_hf.vision.equal_views import EqualViews
from vflowopt_hf.vision.observing import attention_calls
from vflowopt_hf.vision.vision_call import VisionCall

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
    """Attention received per patch, summed up from query and key while it is computed.

    See :class:`vflowopt.components.attention.AttentionSource`. Views may differ in their number of positions;
    :meth:`received` needs views of one size. Sources that :meth:`views` takes from one share what is computed: the
    first that is asked for its total has that of all views computed, in one pass.

    Args:
        query: [views, heads, positions, head_dim], after any rotary embedding.
        key: the same with [views, key heads, positions, head_dim].
        scaling: factor of the scores.
        class_tokens: leading positions that are no patches: seen by the softmax, excluded from the result.
        value: the same as ``key``; ``None`` if nobody asks for it.
    """

    def __init__(
        self, query: Tensor, key: Tensor, scaling: float, class_tokens: int = 0, value: Tensor | None = None
    ) -> None:
        self._parts = VisionCall(query, key, scaling, value=value).views(class_tokens)
        self._order: Tensor | None = None  # int64 [views, patches]: where each patch stands in query and key

    @classmethod
    def _of(cls, parts: list[EqualViews], order: Tensor | None) -> "TorchAttention":
        source = cls.__new__(cls)
        source._parts, source._order = parts, order
        return source

    @classmethod
    def of_calls(
        cls, calls: Iterable[VisionCall], class_tokens: int = 0, packed: Sequence[int] = ()
    ) -> "TorchAttention":
        """One source over the views of all calls of one attention module.

        Args:
            calls: at least one.
            class_tokens: of each view.
            packed: positions of all their views, for towers that pack views into one sequence; see
                :meth:`VisionCall.views`.
        """
        parts: list[EqualViews] = []
        for call in calls:
            parts += call.views(class_tokens, packed[sum(map(len, parts)) :])
        equal = groupby(parts, lambda part: (part.query.shape[1:], part.key.shape[1:]))
        return cls._of([EqualViews.joined(list(neighbours)) for _, neighbours in equal], None)

    @classmethod
    def together(cls, sources: "Sequence[TorchAttention]") -> "TorchAttention":
        """One source over the views of several, to compute something for all of them at once.

        Its views are those of the first, then those of the second, and so on; :meth:`received` takes queries, and gives
        results, for all of them: [all views, patches]. Neighbours of one parent cost nothing to join, others a copy.

        Args:
            sources: at least one; all of their views have the same number of patches.
        """
        order = None
        if any(source._order is not None for source in sources):
            order = torch.cat([source._places for source in sources])
        return cls._of([EqualViews.joined([part for source in sources for part in source._parts])], order)

    @property
    def _places(self) -> Tensor:
        if self._order is not None:
            return self._order
        return torch.arange(self._parts[0].patches, device=self.device).expand(len(self), -1)

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def views(self, rows: slice, patch_order: Tensor | None = None) -> "TorchAttention":
        """The source of some of the views, patch i of which is now what was patch ``patch_order[i]``.

        Patches that the order leaves out are as if they had never been there.
        """
        wanted, parts, start = range(len(self))[rows], [], 0
        for part in self._parts:
            own = slice(max(wanted.start - start, 0), min(wanted.stop - start, len(part)))
            parts += [part.part(own)] if own.start < own.stop else []
            start += len(part)
        order = None if self._order is None else self._order[rows]
        if patch_order is not None:
            new = patch_order.to(self.device, non_blocking=True).expand(len(wanted), -1)
            order = new if order is None else order.gather(1, new)
        if order is not None and order.shape[1] < parts[0].patches:
            return TorchAttention._of([EqualViews.joined(parts).with_patches(order)], None)
        return TorchAttention._of(parts, order)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "TorchAttention":
        """The same source with query and key changed, for example moved; both share what they compute and remember."""
        return TorchAttention._of([part.mapped(change) for part in self._parts], self._order)

    def fresh(self) -> "TorchAttention":
        """The same source alone, with nothing computed yet."""
        return TorchAttention._of([part.fresh() for part in self._parts], self._order)

    @classmethod
    def all_fresh(cls, sources: "Iterable[TorchAttention]") -> "list[TorchAttention]":
        """The same sources with nothing computed yet; what they share when it is computed, these share, too."""
        wholes: dict[EqualViews, EqualViews] = {}
        return [cls._of([part.anew(wholes) for part in source._parts], source._order) for source in sources]

    def each(self, change: Callable[[Tensor], Tensor]) -> "TorchAttention":
        """The same source with query, key and value changed, and nothing computed yet."""
        return self.fresh().mapped(change)

    @property
    def keys(self) -> tuple[Tensor, ...]:
        """Keys of the patches of each view, [key heads, patches, head_dim]."""
        return self._of_patches([part.key for part in self._parts])

    @property
    def values(self) -> tuple[Tensor, ...]:
        """Values of the patches of each view, [key heads, patches, head_dim].

        Raises:
            StrategyError: they were not captured.
        """
        values = [part.value for part in self._parts if part.value is not None]
        if not values:
            raise StrategyError(f"values of the vision tower are read, but {NOT_CAPTURED}")
        return self._of_patches(values)

    def _of_patches(self, states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        views = [view[:, self._class_tokens :] for part in states for view in part]
        if self._order is None:
            return tuple(views)
        return tuple(view[:, order] for view, order in zip(views, self._order, strict=True))

    @property
    def shape(self) -> tuple[tuple[int, int], ...]:
        """Of neighbouring views of one length, how many there are, and how many patches each has."""
        if self._order is not None:
            return ((len(self), self._order.shape[1]),)
        return tuple((len(part), part.patches) for part in self._parts)

    @property
    def device(self) -> torch.device:
        """Where query and key are."""
        return self._parts[0].query.device

    @property
    def _class_tokens(self) -> int:
        return self._parts[0].class_tokens

    @property
    def has_class_token(self) -> bool:
        """Whether the tower has a class token."""
        return self._class_tokens > 0

    def received(self, queries: Tensor | None = None, at_most: int | None = None) -> Tensor:
        """See :meth:`vflowopt.components.attention.AttentionSource.received`; never holds heads x patches x patches."""
        if queries is None:
            return self._in_order([part.received for part in self._parts])
        if self._order is not None:
            queries = torch.empty_like(queries).scatter(1, self._order, queries)
        own = [queries] if len(self._parts) == 1 else queries.split([len(part) for part in self._parts])
        return self._in_order([part.received_from(some, at_most) for part, some in zip(self._parts, own, strict=True)])

    @property
    def of_class_token(self) -> Tensor:
        """Attention that the class token pays to each patch: float32 [views, patches].

        Raises:
            StrategyError: the vision tower has no class token.
        """
        self._require_class_token()
        return self._in_order([part.of_class_token for part in self._parts])

    def class_rows(self) -> list[Tensor]:
        """Attention that the class token, the first position, pays to each patch of each view: float32 [patches].

        Raises:
            StrategyError: the vision tower has no class token.
        """
        self._require_class_token()
        rows = [row for part in self._parts for row in part.of_class_token]
        return rows if self._order is None else [row[order] for row, order in zip(rows, self._order, strict=True)]

    def _require_class_token(self) -> None:
        if not self._class_tokens:
            raise StrategyError(f"class attention is needed, but {NO_CLASS_TOKEN}")

    def _in_order(self, results: Sequence[Tensor]) -> Tensor:
        """One result, float32 [views, patches], of one for each part."""
        whole = results[0] if len(results) == 1 else torch.cat(list(results))
        return whole if self._order is None else whole.gather(1, self._order)


class VisionCapture(threading.local):
    """Receives what the observed module does while a recording is open; every thread has recordings of its own."""

    def __init__(self, class_tokens: int, *, values: bool = False) -> None:
        self.class_tokens = class_tokens
        self._values = values
        self._calls: list[VisionCall] | None = None

    @property
    def is_recording(self) -> bool:
        """Whether a recording is open in this thread."""
        return self._calls is not None

    @property
    def noted(self) -> list[list[VisionCall]]:
        """The list that is being filled in this thread, if one is."""
        return [] if self._calls is None else [self._calls]

    @contextmanager
    def recording(self) -> Iterator[list[VisionCall]]:
        """The list fills with the calls of its attention function inside the block.

        A module may call it once for all views, in a batch or packed into one sequence, or once per view.
        """
        calls: list[VisionCall] = []
        self._calls = calls
        try:
            yield calls
        finally:
            self._calls = None

    def note(
        self, query: Tensor, key: Tensor, value: Tensor, scaling: float, bounds: Tensor | None, mask: object
    ) -> None:
        """Record one call of the attention function, see :class:`VisionCall`."""
        if self._calls is not None:
            self._calls.append(VisionCall(query, key, scaling, bounds, mask, value if self._values else None))


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
