"""Who competes for a unit's slots by importance, and what becomes of its separators.

A separator is a visual token without a patch, such as LLaVA's ``image_newline`` after every row. No attention of the
vision tower says what it is worth, so a strategy says what becomes of it (:data:`Separators`). That is settled here:
recyclers see only tokens that have a place in a grid.
"""

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from vflowopt.arrays import Array, HostBools, HostInts, asarray_like, namespace, pick
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
        layout: of the C tokens, all of which have a place; on the host.
        number: int64 [N], 0, 1, ...
        one: float32 [N], 1.
        structural: bool [N], the separators; ``None`` if there is none.
        apart: those that do not compete; ``None`` if all tokens compete.
        rows: rows of separators, for what is settled row by row; else ``None``.
    """

    separators: Separators
    layout: TokenLayout
    number: Array
    one: Array
    structural: Array | None
    apart: "Apart | None"
    rows: "Rows | None"

    @classmethod
    def of(cls, separators: Separators, layout: TokenLayout, like: Array) -> "Competitors":
        """Those of one unit. Separators among themselves compete whatever becomes of them.

        Args:
            separators: what becomes of separators.
            layout: of the N tokens.
            like: an array that lives where the others are to live.
        """
        return layout.derived(("competitors", separators), like, lambda: cls._made(separators, layout, like))

    @classmethod
    def _made(cls, separators: Separators, layout: TokenLayout, like: Array) -> "Competitors":
        hosts = np.arange(layout.tokens), np.ones(layout.tokens, dtype=np.float32)
        number, one = (asarray_like(host, like) for host in hosts)
        found, patches = np.flatnonzero(layout.structural), np.flatnonzero(~layout.structural)
        if not len(found):
            return cls(separators, layout, number, one, None, None, None)
        structural, apart, competing = layout.structural_like(like), None, layout.placed()
        if separators != "rank" and len(patches):
            apart, competing = Apart.of(layout.structural, like), layout.taken(patches)
        rows = Rows.of(layout, like) if separators in ("rank", "merge") else None
        return cls(separators, competing, number, one, structural, apart, rows)

    def share(self, count: int) -> int:
        """How many of ``count`` retained tokens compete; the others are separators that do not."""
        if self.separators == "keep" and self.apart is not None:
            return max(count - int(self.apart.index.shape[0]), 1)
        return min(count, self.layout.tokens)

    def taken(self, values: Array) -> Array:
        """Of values [N] those [C] of the tokens that compete."""
        return values if self.apart is None else pick(values, self.apart.tokens)

    def valued(self, importance: Array, left: Array | None = None) -> Array:
        """Importance float32 [N] with that of separators put in: 0, unless they compete.

        Args:
            importance: float32 [N]; of separators it is ignored.
            left: bool [N], tokens that are left; ``None`` if all are.
        """
        if self.structural is None:
            return importance
        xp = namespace(importance)
        importance = xp.where(self.structural, 0.0, importance)
        if self.separators != "rank" or self.rows is None:
            return importance
        own = self.rows.members if left is None else self.rows.members & left[None, :]
        members = xp.sum(xp.astype(own, importance.dtype), axis=1)
        mean = xp.sum(xp.where(own, importance[None, :], 0.0), axis=1) / xp.clip(members, 1.0, None)
        lowest = xp.finfo(importance.dtype).min
        mean = xp.where((members > 0) & xp.isfinite(mean), mean, lowest)
        return xp.where(self.structural, pick(mean, self.rows.number), importance)

    def context(self, whole: ScoringContext) -> ScoringContext:
        """A unit's context with only the tokens that compete."""
        return cast("ScoringContext", _CompetingContext(whole, self))

    def hidden(self, whole: Hidden) -> Hidden:
        """Hidden states by indices among the C."""
        if self.apart is None:
            return whole
        tokens = self.apart.tokens
        return lambda chosen: whole(pick(tokens, chosen))

    def widened(self, merge: Merge, count: int) -> Merge:
        """An outcome over the C tokens as one over the N that retains ``count``."""
        if self.apart is None:
            return merge
        xp, apart = namespace(merge.weight), self.apart
        kept = apart.turn < count - self.share(count)
        return Merge(
            retained=apart.seated(merge.retained, kept),
            anchor=apart.seated(pick(apart.named, merge.anchor + 1), xp.where(kept, apart.index, -1)),
            weight=apart.seated(merge.weight, xp.astype(kept, merge.weight.dtype)),
        )

    def joined(self, merge: Merge, left: Array) -> Merge:
        """The outcome where separators that are lost join the last retained token of their row.

        Args:
            merge: over the N tokens.
            left: bool [N], tokens that the stage found.
        """
        assert self.rows is not None
        xp, rows = namespace(merge.weight), self.rows
        lost = pick(left & ~merge.retained, rows.index)
        last = xp.max(xp.where(rows.members & merge.retained[None, :], self.number[None, :], -1), axis=1)
        slot = xp.where(lost, last, -1)
        joins = slot >= 0
        members = (merge.anchor[None, :] == slot[:, None]) & joins[:, None]
        others = (slot[None, :] == slot[:, None]) & joins[:, None]
        standing = xp.sum(xp.astype(members, xp.int64), axis=1) + xp.sum(xp.astype(others, xp.int64), axis=1)
        weight = xp.where(joins, 1 / xp.astype(xp.clip(standing, 1, None), merge.weight.dtype), 0.0)
        given = xp.sum(xp.where(members, weight[:, None], 0.0), axis=0)  # what each token's slot gives to separators
        joining = self.structural & pick(joins, rows.number)
        return Merge(
            retained=merge.retained,
            anchor=xp.where(joining, pick(slot, rows.number), merge.anchor),
            weight=xp.where(joining, pick(weight, rows.number), merge.weight * (1 - given)),
        )


@dataclass(frozen=True, eq=False)
class Apart:
    """The S separators of a unit that do not compete, and the C tokens that do.

    Attributes:
        tokens: int64 [C], which of the N compete.
        named: int64 [1 + C], the same after -1, by the number of an anchor plus 1.
        index: int64 [S], which do not.
        turn: int64 [S], the order in which these are retained, from 0.
        in_turn: int64 [S], these in that order.
        seats: int64 [N], where each token is among the C, and the S after them.
    """

    tokens: Array
    named: Array
    index: Array
    turn: Array
    in_turn: Array
    seats: Array

    @classmethod
    def of(cls, structural: HostBools, like: Array) -> "Apart":
        """Those of a mask [N], where another array lives."""
        tokens, index = np.flatnonzero(~structural), np.flatnonzero(structural)
        turn, seats = _spread_turns(len(index)), np.empty(len(structural), dtype=np.int64)
        seats[np.concatenate([tokens, index])] = np.arange(len(structural))
        hosts = (tokens, np.concatenate([[-1], tokens]), index, turn, index[np.argsort(turn)], seats)
        return cls(*(asarray_like(host, like) for host in hosts))

    def seated(self, competing: Array, others: Array) -> Array:
        """Values [N] from those [C] of the tokens that compete and those [S] of the others."""
        xp = namespace(competing)
        return pick(xp.concat([competing, others]), self.seats)


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of the S separators of a unit.

    Attributes:
        index: int64 [S], which of the N are separators.
        number: int64 [N], the number of each among the S; any number for the others.
        members: bool [S, N], tokens that have a patch in the row of each.
    """

    index: Array
    number: Array
    members: Array

    @classmethod
    def of(cls, layout: TokenLayout, like: Array) -> "Rows":
        """Those of a layout, where another array lives."""
        structural, rows = layout.structural, layout.rows
        index, number = np.flatnonzero(structural), np.maximum(np.cumsum(structural) - 1, 0)
        members = (rows[index][:, None] == rows[None, :]) & ~structural[None, :]
        return cls(*(asarray_like(host, like) for host in (index, number, members)))


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
        features, apart = self._whole.features, self._competitors.apart
        return features if apart is None else pick(features, apart.tokens)

    def to_tokens(self, patch_map: Array) -> Array:
        return self._competitors.taken(self._whole.to_tokens(patch_map))


def _spread_turns(count: int) -> HostInts:
    """For each of ``count`` things in a row its turn, int64 [count]: any number of first ones is spread evenly.

    Turns go by the number with its bits reversed: the first, the one in the middle, those in the middles of the halves.
    """
    bits = max(count - 1, 0).bit_length()
    number, mirrored = np.arange(count), np.zeros(count, dtype=np.int64)
    for bit in range(bits):
        mirrored |= ((number >> bit) & 1) << (bits - 1 - bit)
    return np.argsort(np.argsort(mirrored)).astype(np.int64)
