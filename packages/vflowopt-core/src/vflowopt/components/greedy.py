"""Choosing tokens one after the other, each by what it is worth and how far it is from those before it."""

from typing import Protocol

from vflowopt.arrays import Array, device_of, namespace, pick


class Greedy(Protocol):
    """Chooses what :func:`choose_greedily` chooses, in whatever way is fastest."""

    def __call__(self, first: Array, distance: Array, steps: int, worth: Array | None = None) -> tuple[Array, Array]:
        """See :func:`choose_greedily`."""
        ...


def choose_greedily(first: Array, distance: Array, steps: int, worth: Array | None = None) -> tuple[Array, Array]:
    """Choose the token with the largest ``first``, and then always, of equal ones the one with the lowest index,

        argmax_i  worth_i + min over chosen j of distance_ji

    These are a few small operations per step, each of which waits for the one before;
    :meth:`vflowopt.components.ScoringContext.choose_greedily` may do all steps in one.

    Args:
        first: float32 [n], n > 0.
        distance: float32 [n, n]; -inf on the diagonal, so that nothing is chosen twice.
        steps: how many to choose, at most n.
        worth: float32 [n]; ``None`` is 0 for each. Nothing is NaN, or any tokens may be chosen, several times.

    Returns:
        The chosen in their order, int64 [steps], and the sum above of every token, float32 [n]: -inf of those chosen,
        ``first`` if there are none.
    """  # noqa: D415
    xp = namespace(distance)
    score, nearest = first, xp.full_like(first, xp.inf)
    order = [xp.zeros(0, dtype=xp.int64, device=device_of(first))]
    for _ in range(steps):
        chosen = xp.argmax(score, axis=0, keepdims=True)
        order.append(chosen)
        nearest = xp.minimum(nearest, pick(distance, chosen)[0, :])
        score = nearest if worth is None else worth + nearest
    return xp.concat(order), score
