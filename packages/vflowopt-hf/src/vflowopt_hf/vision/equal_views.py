"""Query and key of views that have one length, and the passes over them, each made once and for all of them."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from vflowopt_hf.kernels.fusing import ColumnSums, fused_kernels
from vflowopt_hf.vision.column_sums import column_sums


class EqualViews:
    """Query and key of one attention module over views that have the same number of positions.

    Args:
        query: [views, heads, positions, head_dim], after any rotary embedding.
        key: [views, key heads, positions, head_dim].
        scaling: factor of the scores.
        class_tokens: leading positions that are no patches: seen by the softmax, excluded from every result.
        value: as ``key``; ``None`` if nobody asks for it.
    """

    def __init__(
        self, query: Tensor, key: Tensor, scaling: float, class_tokens: int = 0, value: Tensor | None = None
    ) -> None:
        self.query, self.key, self.value = query, key, value
        self.scaling, self.class_tokens = scaling, class_tokens
        self._known: dict[str, Tensor] = {}  # by the method that computes it
        self._whole, self._place = self, slice(0, len(query))  # the views that these are some of

    @classmethod
    def joined(cls, parts: "Sequence[EqualViews]") -> "EqualViews":
        """The views of several, at least one; they are copied unless they follow each other in one whole."""
        first, last = parts[0], parts[-1]
        if all(one._whole is other._whole and one._place.stop == other._place.start for one, other in pairwise(parts)):
            return first._whole.part(slice(first._place.start, last._place.stop))
        query, key = torch.cat([part.query for part in parts]), torch.cat([part.key for part in parts])
        value = None
        if first.value is not None:
            value = torch.cat([part.value for part in parts if part.value is not None])
        return cls(query, key, first.scaling, first.class_tokens, value)

    def __len__(self) -> int:
        return len(self.query)

    @property
    def patches(self) -> int:
        """Of each view."""
        return self.query.shape[2] - self.class_tokens

    def part(self, views: slice) -> "EqualViews":
        """Some of the views; what is computed for them is computed for all, if these know their whole, and shared."""
        own = range(len(self))[views]
        if len(own) == len(self):
            return self
        part = self._with(lambda states: states[views])
        start = self._place.start
        part._whole, part._place = self._whole, slice(start + own.start, start + own.stop)
        return part

    def with_patches(self, places: Tensor) -> "EqualViews":
        """The same views if they had only some patches, by where these are: int64 [views, patches]."""
        leading = torch.arange(self.class_tokens, device=places.device).expand(len(self), -1)
        positions = torch.cat([leading, places + self.class_tokens], dim=1)[:, None, :, None]
        return self._with(lambda states: states.take_along_dim(positions, dim=2))

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "EqualViews":
        """The same with its tensors changed, for example moved; both share what they know."""
        mapped = self._with(change)
        mapped._known = self._known
        return mapped

    def fresh(self) -> "EqualViews":
        """The same alone, with nothing computed."""
        return self._with(lambda states: states)

    def anew(self, wholes: "dict[EqualViews, EqualViews]") -> "EqualViews":
        """The same with nothing computed, as a part of what stands for its whole; a new whole is added to these."""
        if self._whole not in wholes:
            wholes[self._whole] = self._whole.fresh()
        return wholes[self._whole].part(self._place)

    def _with(self, change: Callable[[Tensor], Tensor]) -> "EqualViews":
        value = None if self.value is None else change(self.value)
        return EqualViews(change(self.query), change(self.key), self.scaling, self.class_tokens, value)

    @property
    def received(self) -> Tensor:
        """Attention that each patch receives from all patches: float32 [views, patches]."""
        return self._once("received", EqualViews._received)

    @property
    def of_class_token(self) -> Tensor:
        """Attention that the first position, the class token, pays to each patch: float32 [views, patches]."""
        return self._once("of_class_token", EqualViews._of_class_token)

    def received_from(self, queries: Tensor, at_most: int | None = None) -> Tensor:
        """Attention that each patch receives from some patches: float32 [views, patches].

        Args:
            queries: bool [views, patches].
            at_most: no view has more of them.
        """
        query, fused = self._patches(self.query, 2), fused_kernels(self.query)
        bound = self.patches if at_most is None else max(at_most, 1)
        if fused is None and bound >= self.patches:
            return self._patches(column_sums(query, self.key, self.scaling, queries.float()))
        # The selected rows come first in this order, so the first `at_most` rows hold them all.
        rows = queries.byte().argsort(dim=-1, descending=True, stable=True)[:, :bound]
        if fused is not None:
            chosen = rows, queries.sum(dim=-1)
            return self._patches(fused.column_sums(query, self.key, self.scaling, self._normalisers(fused), chosen))
        weight, views = queries.gather(1, rows).float(), torch.arange(len(rows), device=rows.device)[:, None]
        query = query.transpose(1, 2)[views, rows].transpose(1, 2)
        return self._patches(column_sums(query, self.key, self.scaling, weight))

    def _received(self) -> Tensor:
        query, fused = self._patches(self.query, 2), fused_kernels(self.query)
        if fused is None:
            return self._patches(column_sums(query, self.key, self.scaling))
        return self._patches(fused.column_sums(query, self.key, self.scaling, self._normalisers(fused)))

    def _normalisers(self, fused: ColumnSums) -> Tensor:
        """Of the patches' rows, which the fused kernels need for every pass."""
        return self._once(
            "normalisers", lambda own: fused.row_normalisers(own._patches(own.query, 2), own.key, own.scaling)
        )

    def _of_class_token(self) -> Tensor:
        return self._patches(column_sums(self.query[:, :, :1], self.key, self.scaling))

    def _patches(self, states: Tensor, axis: int = 1) -> Tensor:
        """Without class tokens."""
        return states.narrow(axis, self.class_tokens, self.patches) if self.class_tokens else states

    def _once(self, name: str, compute: Callable[["EqualViews"], Tensor]) -> Tensor:
        if name not in self._known:
            own = self._whole is self
            self._known[name] = compute(self) if own else self._whole._once(name, compute)[self._place]
        return self._known[name]
