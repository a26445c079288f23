"""Who competes for a unit's slots by importance, and what becomes of its separators.

A separator is a visual token without a patch, such as LLaVA's ``image_newline`` after every row. No attention of the
vision tower says what it is worth, so a strategy says what becomes of it (:data:`Separators`). That is settled here:
recyclers see only tokens that have a place in a grid.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from vflowopt.arrays import Array, HostInts, asarray_like, device_of, namespace
from vflowopt.components import Merge, ScoringContext
from vflowopt.components.stage_recycling import Hidden
from vflowopt.layout import TokenLayout

Separators: TypeAlias = Literal["keep", "rank", "merge", "drop"]
"""What becomes of separators. Whatever it is, they count in N and in what a stage retains.

- ``"keep"``: they stay, as many as fit beside one token that has a patch; if not all do, evenly spread ones.
- ``"rank"``: each competes with the worth that the tokens of its row have on average, those that are left when ranked.
- ``"merge"``: as ``"drop"``, but what is dropped joins the last token of its row that the stage retains, if there is
  one, with the weight of one token among those that the slot stands for.
- ``"drop"``: they go before any token that has a patch; where not all have to go, evenly spread ones stay.
"""

SEPARATORS: Separators = "drop"
"""What becomes of them unless a strategy says so."""


@dataclass(frozen=True, eq=False)
class Competitors:
    """The C of a unit's N tokens that compete by importance. Arrays live where the importance lives.

    Attributes:
        separators: what becomes of separators.
        found: how many there are, S.
        layout: of the C tokens, all of which have a place; on the host.
        tokens: int64 [C], their indices among the N; ``None`` if these are all.
        structural: bool [N], the separators.
        index: int64 [S], their indices among the N.
        turn: int64 [N], the order in which separators that do not compete are retained, from 0.
        rows: int64 [N], see :attr:`vflowopt.layout.TokenLayout.rows`; where nobody asks for rows, all 0.
    """

    separators: Separators
    found: int
    layout: TokenLayout
    tokens: Array | None
    structural: Array
    index: Array
    turn: Array
    rows: Array

    @classmethod
    def of(cls, separators: Separators, layout: TokenLayout, like: Array) -> "Competitors":
        """Those of one unit. Separators among themselves compete whatever becomes of them.

        Args:
            separators: what becomes of separators.
            layout: of the N tokens.
            like: an array that lives where the others are to live.
        """
        structural = layout.structural
        index, patches = np.flatnonzero(structural), np.flatnonzero(~structural)
        turn = rows = np.zeros(layout.tokens, dtype=np.int64)
        if len(index) and separators in ("rank", "merge"):
            rows = layout.rows
        if separators == "rank" or not len(index) or not len(patches):
            competing, tokens = layout.placed() if len(index) else layout, None
        else:
            competing, tokens, turn = layout.taken(patches), asarray_like(patches, like), turn.copy()
            turn[index] = _spread_turns(len(index))
        arrays: Iterable[Array] = (index, turn, rows)
        if len(index):  # else nobody looks at them
            arrays = (asarray_like(array, like) for array in arrays)
        return cls(separators, len(index), competing, tokens, asarray_like(structural, like), *arrays)

    def share(self, count: int) -> int:
        """How many of ``count`` retained tokens compete; the others are separators that do not."""
        if self.separators == "keep" and self.tokens is not None:
            return max(count - self.found, 1)
        return min(count, self.layout.tokens)

    def taken(self, values: Array) -> Array:
        """Of values [N] those [C] of the tokens that compete."""
        return values if self.tokens is None else namespace(values).take(values, self.tokens)

    def valued(self, importance: Array, left: Array) -> Array:
        """Importance float32 [N] with that of separators put in: 0, unless they compete.

        Args:
            importance: float32 [N]; of separators it is ignored.
            left: bool [N], tokens that are left.
        """
        if not self.found:
            return importance
        xp = namespace(importance)
        importance = xp.where(self.structural, xp.zeros_like(importance), importance)
        if self.separators != "rank":
            return importance
        own = self._in_row() & left[None, :]
        members = xp.sum(xp.astype(own, importance.dtype), axis=1)
        mean = xp.sum(xp.where(own, importance[None, :], 0.0), axis=1) / xp.clip(members, 1.0, None)
        lowest = xp.finfo(importance.dtype).min
        mean = xp.where((members > 0) & xp.isfinite(mean), mean, lowest)
        return xp.where(self.structural, xp.take(mean, _numbers(self.structural)), importance)

    def context(self, whole: ScoringContext) -> ScoringContext:
        """A unit's context with only the tokens that compete."""
        return cast("ScoringContext", _CompetingContext(whole, self))

    def hidden(self, whole: Hidden) -> Hidden:
        """Hidden states by indices among the C."""
        tokens = self.tokens
        return whole if tokens is None else lambda chosen: whole(namespace(tokens).take(tokens, chosen))

    def widened(self, merge: Merge, count: int) -> Merge:
        """An outcome over the C tokens as one over the N that retains ``count``."""
        if self.tokens is None:
            return merge
        xp, apart = namespace(merge.weight), self.structural
        itself = xp.arange(self.turn.shape[0], device=device_of(self.turn))
        place = _numbers(~apart)
        kept = apart & (self.turn < count - self.share(count))
        anchor = xp.where(merge.anchor >= 0, xp.take(self.tokens, xp.clip(merge.anchor, 0, None)), -1)
        return Merge(
            retained=xp.where(apart, kept, xp.take(merge.retained, place)),
            anchor=xp.where(apart, xp.where(kept, itself, -1), xp.take(anchor, place)),
            weight=xp.where(apart, xp.astype(kept, merge.weight.dtype), xp.take(merge.weight, place)),
        )

    def joined(self, merge: Merge, left: Array) -> Merge:
        """The outcome where separators that are lost join the last retained token of their row.

        Args:
            merge: over the N tokens.
            left: bool [N], tokens that the stage found.
        """
        xp = namespace(merge.weight)
        itself = xp.arange(left.shape[0], device=device_of(left))
        lost = xp.take(left & ~merge.retained, self.index)
        last = xp.max(xp.where(self._in_row() & merge.retained[None, :], itself[None, :], -1), axis=1)
        slot = xp.where(lost, last, -1)
        joins = slot >= 0
        members = (merge.anchor[None, :] == slot[:, None]) & joins[:, None]
        others = (slot[None, :] == slot[:, None]) & joins[:, None]
        standing = xp.sum(xp.astype(members, xp.int64), axis=1) + xp.sum(xp.astype(others, xp.int64), axis=1)
        weight = xp.where(joins, 1 / xp.astype(xp.clip(standing, 1, None), merge.weight.dtype), 0.0)
        given = xp.sum(xp.where(members, weight[:, None], 0.0), axis=0)  # what each token's slot gives to separators
        number = _numbers(self.structural)
        joining = self.structural & xp.take(joins, number)
        return Merge(
            retained=merge.retained,
            anchor=xp.where(joining, xp.take(slot, number), merge.anchor),
            weight=xp.where(joining, xp.take(weight, number), merge.weight * (1 - given)),
        )

    def _in_row(self) -> Array:
        """Tokens that have a patch in the row of each separator: bool [S, N]."""
        row = namespace(self.rows).take(self.rows, self.index)
        return (row[:, None] == self.rows[None, :]) & ~self.structural[None, :]


class _CompetingContext:
    """A scoring context with other tokens: what is not per token is the whole unit's."""

    def __init__(self, whole: ScoringContext, competitors: Competitors) -> None:
        self._whole, self._competitors = whole, competitors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    @property
    def layout(self) -> TokenLayout:
        return self._competitors.layout

    @property
    def features(self) -> Array:
        features, tokens = self._whole.features, self._competitors.tokens
        return features if tokens is None else namespace(features).take(features, tokens, axis=0)

    def to_tokens(self, patch_map: Array) -> Array:
        return self._competitors.taken(self._whole.to_tokens(patch_map))


def _numbers(mask: Array) -> Array:
    """Number of each token among those of a mask, int64 [N]; any number for the others."""
    xp = namespace(mask)
    return xp.clip(xp.cumulative_sum(xp.astype(mask, xp.int64)) - 1, 0, None)


def _spread_turns(count: int) -> HostInts:
    """For each of ``count`` things in a row its turn, int64 [count]: any number of first ones is spread evenly.

    Turns go by the number with its bits reversed: the first, the one in the middle, those in the middles of the halves.
    """
    bits = max(count - 1, 0).bit_length()
    number, mirrored = np.arange(count), np.zeros(count, dtype=np.int64)
    for bit in range(bits):
        mirrored |= ((number >> bit) & 1) << (bits - 1 - bit)
    return np.argsort(np.argsort(mirrored)).astype(np.int64)
