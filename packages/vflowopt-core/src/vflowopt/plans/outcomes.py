"""What one stage did to the N tokens of a unit; what nobody asks for is not computed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from vflowopt.arrays import Array, inverse_permutation, namespace, pick
from vflowopt.components import Merge
from vflowopt.plans.competitors import Competitors


@dataclass(frozen=True, eq=False)
class Untouched:
    """All of a unit's tokens are there.

    Attributes:
        kept: int64 [N], 0, 1, ...
        weight: float32 [N], 1.
    """

    kept: Array
    weight: Array

    def each(self, _change: Callable[[Array], Array]) -> "Untouched":
        """The same with every array that belongs to the unit changed; these belong to its layout."""
        return self

    @cached_property
    def merge(self) -> Merge:
        """The same as an outcome over the N tokens."""
        return Merge(self.weight > 0, self.kept, self.weight)


@dataclass(frozen=True, eq=False)
class Merged:
    """Some of what the stage pruned was merged.

    Attributes:
        merge: the outcome.
        count: tokens that it retains.
    """

    merge: Merge
    count: int

    def each(self, change: Callable[[Array], Array]) -> "Merged":
        """The same with every array that belongs to the unit changed."""
        merge = self.merge
        return Merged(Merge(change(merge.retained), change(merge.anchor), change(merge.weight)), self.count)

    @cached_property
    def kept(self) -> Array:
        """The retained tokens, ascending: int64 [count]."""
        return true_indices(self.merge.retained, self.count)


@dataclass(frozen=True, eq=False)
class Dropped:
    """The most important tokens were retained, and nothing was merged.

    Attributes:
        competitors: who competed.
        order: int64 [C], these from the most to the least important.
        count: tokens that it retains.
    """

    competitors: Competitors
    order: Array
    count: int

    def each(self, change: Callable[[Array], Array]) -> "Dropped":
        """The same with every array that belongs to the unit changed."""
        return Dropped(self.competitors, change(self.order), self.count)

    @cached_property
    def kept(self) -> Array:
        """The retained tokens, ascending: int64 [count]."""
        xp, apart, share = namespace(self.order), self.competitors.apart, self.competitors.share(self.count)
        kept = self.order[:share]
        if apart is not None:
            kept = pick(apart.tokens, kept)
            kept = kept if self.count == share else xp.concat([kept, apart.in_turn[: self.count - share]])
        return xp.sort(kept)

    @cached_property
    def merge(self) -> Merge:
        """The same as an outcome over the N tokens."""
        xp, apart, share = namespace(self.order), self.competitors.apart, self.competitors.share(self.count)
        retained = inverse_permutation(self.order) < share
        if apart is not None:
            retained = apart.seated(retained, apart.turn < self.count - share)
        return Merge(retained, xp.where(retained, self.competitors.number, -1), xp.astype(retained, xp.float32))


Outcome: TypeAlias = Untouched | Merged | Dropped


def true_indices(mask: Array, count: int) -> Array:
    """Ascending indices [count] of a mask known to hold ``count`` times True, without a data-dependent shape."""
    xp = namespace(mask)
    return xp.argsort(xp.astype(~mask, xp.uint8), stable=True)[:count]
