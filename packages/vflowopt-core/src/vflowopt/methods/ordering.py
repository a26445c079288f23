"""Importance from an order: what methods share that choose tokens one after the other."""

from collections.abc import Callable

import numpy as np

from vflowopt.arrays import Array, asarray_like, inverse_permutation, namespace
from vflowopt.layout import TokenLayout


def by_order(layout: TokenLayout, count: int, like: Array, choose: Callable[[Array, int], Array]) -> Array:
    """Importance by which any count of tokens, up to a given one, takes the first of an order.

    Args:
        layout: of the N tokens. Those without a patch take no part.
        count: at most so many tokens are retained.
        like: a float array, which gives dtype, library and device.
        choose: is given the numbers of the tokens with a patch, int64 [tokens], on the device, and how many of them
            have to be put in order; returns their order, int64 [tokens]. Not called where there are none.

    Returns:
        [N], 1 for the first and falling evenly to above 0; 0 where structural.
    """
    xp, structural = namespace(like), layout.structural
    tokens = np.flatnonzero(~structural)
    if not len(tokens):
        return asarray_like(np.zeros(layout.tokens, dtype=np.float32), like)
    order = choose(asarray_like(tokens, like), min(count, len(tokens)))
    values = 1 - xp.astype(inverse_permutation(order), like.dtype) / len(tokens)
    among = asarray_like(np.maximum(np.cumsum(~structural) - 1, 0), like)
    return xp.where(asarray_like(structural, like), 0.0, xp.take(values, among))
