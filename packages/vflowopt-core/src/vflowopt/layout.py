"""Where a unit's visual tokens sit: host-side geometry, known before any tensor is computed."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from vflowopt.arrays import Array, HostBools, HostInts, asarray_like, home_of
from vflowopt.errors import InputError
from vflowopt.memory import Memory

T = TypeVar("T")

DERIVED = 4
"""How many things that follow from a layout are remembered: few, as a search asks for other cells again and again."""


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Places of the N visual tokens of one unit, in prompt order.

    Attributes:
        position: int64 [N, 3], (view, row, column) in the token's own grid; -1 where structural. A "view" here is one
            token grid: the base crop is one, the stitched high-resolution grid another, each frame of a video one.
    """

    position: HostInts
    _derived: Memory[Any] = field(default_factory=lambda: Memory(DERIVED), init=False, repr=False)

    def __post_init__(self) -> None:
        if self.position.ndim != 2 or self.position.shape[1] != 3:
            raise InputError(f"token positions must have shape [N, 3], not {self.position.shape}")
        negative = (self.position < 0).any(axis=1)
        if (negative & (self.position != -1).any(axis=1)).any():
            raise InputError("a structural token has position (-1, -1, -1); other positions must be non-negative")

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenLayout, (self.position,)  # what is remembered belongs to a device, and to this process

    def derived(self, name: Hashable, like: Array, make: Callable[[], T]) -> T:
        """What follows from the layout alone, made once for all arrays that live where another one does.

        Args:
            name: of what is made, with every option that it depends on.
            like: an array that lives where what is made lives.
            make: makes it, for example copies a table to the device; it must not read other arrays.
        """
        made: T = self._derived.get((name, home_of(like)), make)
        return made

    @property
    def tokens(self) -> int:
        """N, the number of visual tokens, structural ones included."""
        return int(self.position.shape[0])

    @property
    def structural(self) -> HostBools:
        """Mask [N], True for tokens without a patch, such as ``image_newline``: separators."""
        return np.asarray(self.position[:, 0] < 0)

    def structural_like(self, like: Array) -> Array:
        """:attr:`structural` where another array lives."""
        return self.derived("structural", like, lambda: asarray_like(self.structural, like))

    @property
    def rows(self) -> HostInts:
        """A number for the grid row that each token belongs to: int64 [N].

        A separator belongs to the row of the last token before it that has a patch, or else of the first one after it;
        where no token has one, all belong to row -1.
        """
        home = self._home()
        if (home < 0).any():
            return home
        view, row, _ = self.position[home].T
        return np.asarray(view * (row.max(initial=0) + 1) + row, dtype=np.int64)

    def placed(self) -> "TokenLayout":
        """The same tokens with every separator in the place of the token whose row it belongs to.

        Where no token has a patch, they make one row.
        """
        home = self._home()
        if (home < 0).any():
            column = np.arange(self.tokens, dtype=np.int64)
            return TokenLayout(np.stack([0 * column, 0 * column, column], axis=1))
        return TokenLayout(self.position[home])

    def taken(self, tokens: HostInts) -> "TokenLayout":
        """The layout of some of the tokens, given by their indices."""
        return TokenLayout(self.position[tokens])

    def _home(self) -> HostInts:
        """Index int64 [N] of the token that has a patch beside each token, itself where it has one; -1 without any."""
        patches = np.flatnonzero(~self.structural)
        if not len(patches):
            return np.full(self.tokens, -1, dtype=np.int64)
        before = np.searchsorted(patches, np.arange(self.tokens), side="right") - 1
        return np.asarray(patches[np.maximum(before, 0)], dtype=np.int64)
