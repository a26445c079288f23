"""Importance from an order: what methods share that choose tokens one after the other."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vflowopt.arrays import Array, asarray_like, device_of, flaw, inverse_permutation, namespace, pick
from vflowopt.layout import TokenLayout


def by_order(layout: TokenLayout, count: int, like: Array, choose: Callable[[Array, int], Array]) -> Array:
    """Importance by which any count of tokens, up to a given one, takes the first of an order.

    An order is finite whatever it came from, so what is not finite is looked for in what the tokens were compared by.

    Args:
        layout: of the N tokens. Those without a patch take no part.
        count: at most so many tokens are retained.
        like: a float array, what the tokens are compared by; gives dtype, library and device.
        choose: is given the numbers of the tokens with a patch, int64 [tokens], on the device, and how many of them
            have to be put in order; returns their order, int64 [tokens]. Not called where there are none.

    Returns:
        [N], 1 for the first and falling evenly to above 0; 0 where structural. NaN if anything in ``like`` is not
        finite.
    """
    patched = Patched.of(layout, like)
    found = patched.tokens.shape[0]
    if not found:
        return patched.spread(namespace(like).zeros(0, dtype=like.dtype, device=device_of(like)))
    order = choose(patched.tokens, min(count, found))
    place = namespace(like).astype(inverse_permutation(order), like.dtype)
    return patched.spread(1 - place / found + flaw(like))


@dataclass(frozen=True, eq=False)
class Patched:
    """The C of a unit's N tokens that have a patch.

    Attributes:
        tokens: int64 [C], their numbers.
        seats: int64 [N], the number of each among them; C for the others.
    """

    tokens: Array
    seats: Array

    @classmethod
    def of(cls, layout: TokenLayout, like: Array) -> "Patched":
        """Those of a layout, made once where another array lives."""

        def made() -> "Patched":
            structural = layout.structural
            tokens = np.flatnonzero(~structural)
            seats = np.where(structural, len(tokens), np.cumsum(~structural) - 1)
            return cls(asarray_like(tokens, like), asarray_like(seats, like))

        return layout.derived("patched", like, made)

    def spread(self, values: Array) -> Array:
        """Values [C] of the tokens that have a patch, and 0 for the others: [N]."""
        xp = namespace(values)
        return pick(xp.concat([values, xp.zeros(1, dtype=values.dtype, device=device_of(values))]), self.seats)
