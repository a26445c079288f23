"""Diversity: a visual token is worth less the more it resembles one that is more important.

Attention alone keeps many tokens that say the same; distance alone (DivPrune) keeps whatever is odd. With importance I
and cosine distance of the tokens' embeddings as they enter the decoder,

    I'_i = I_i^(1 - delta) * d_i^delta,    d_i = min over all j ranked above i by I of (1 - cos(x_i, x_j))

which is I at delta = 0 and distance alone at delta = 1. Density times the distance to the nearest point of higher
density is the decision value of density-peaks clustering (Rodriguez and Laio, *Clustering by fast search and find of
density peaks*, Science 2014). It needs one pass: no token waits for another to be chosen, as in greedy selection.
"""

from vflowopt.arrays import (
    Array,
    descending_order,
    device_of,
    flaw,
    inverse_permutation,
    namespace,
    normalised,
    pick,
)

RESOLUTION = 1e-6
"""Cosine distances below this are rounding of float32: such tokens count as equally far, and importance decides."""

ROWS = 256
"""Tokens compared with all before them at once: memory stays linear in the number of tokens."""


def diverse_importance(importance: Array, features: Array, structural: Array, diversity: float) -> Array:
    """I' of every token.

    Args:
        importance: float32 [N], non-negative where not structural.
        features: float32 [N, D], the tokens' embeddings.
        structural: bool [N], tokens that resemble nothing, where the importance lives.
        diversity: delta in [0, 1].

    Returns:
        float32 [N]. Scaling ``importance`` changes no ranking, and raising one token's importance never lowers its I'.
    """
    xp = namespace(importance)
    ranked = xp.where(structural, -1.0, importance)
    order = descending_order(ranked)
    distance = pick(distance_above(pick(features, order, axis=0)), inverse_permutation(order))
    combined = importance ** (1 - diversity) * distance**diversity + flaw(features)
    return xp.where(structural, 0.0, combined)


def distance_above(features: Array) -> Array:
    """Cosine distance of each token to the nearest one before it: N^2 D operations, half of all similarities.

    Args:
        features: float32 [N, D].

    Returns:
        float32 [N] in [RESOLUTION, 2]; 2 for the first.
    """
    xp = namespace(features)
    directions = normalised(features)
    number = xp.arange(min(ROWS, features.shape[0]), device=device_of(features))
    before = number[None, :] < number[:, None]
    nearest = []
    for start in range(0, features.shape[0], ROWS):
        own = directions[start : start + ROWS, :]
        rows = own.shape[0]
        closest = xp.max(xp.where(before[:rows, :rows], own @ xp.matrix_transpose(own), -1.0), axis=1)
        if start:  # all tokens of the blocks above come before: nothing to mask, and nothing computed twice
            closest = xp.maximum(closest, xp.max(own @ xp.matrix_transpose(directions[:start, :]), axis=1))
        nearest.append(closest)
    if not nearest:
        return xp.zeros(0, dtype=features.dtype, device=device_of(features))
    return xp.clip(1 - xp.concat(nearest), RESOLUTION, 2.0)
