"""Fit a :class:`vflowopt.budgets.curve.Curve` to measurements: non-negative least squares on relative errors."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from vflowopt.budgets.curve import SMALL, Curve
from vflowopt.errors import InputError

Measured = Sequence[tuple[Sequence[float], float]]
"""Tokens of each part, and seconds of all parts one after the other."""

GAIN = 0.5
"""A floor is believed if with it the largest error is at most this share of what it is without."""


def fit_curve(measured: Measured, *, floor: bool = False) -> Curve:
    """The curve nearest to measurements, relative to each of them.

    There are always more measurements than terms, so that noise does not bend the curve: to one alone is fitted what is
    proportional to tokens, to fewer than four a constant besides.

    Args:
        measured: (parts, seconds) with all parts > 0; a time may be negative where it is a difference.
        floor: whether the shortest ones may all take the same time (:attr:`Curve.floor`).

    Raises:
        InputError: nothing was measured, or a number of tokens is not positive.
    """
    points = tuple(sorted((tuple(map(float, parts)), float(seconds)) for parts, seconds in measured))
    if not points or any(not parts or min(parts) <= 0 for parts, _ in points):
        raise InputError(f"a curve needs times at numbers of tokens above 0, got {list(measured)}")
    best = _fitted(points)
    for short in range(2, len(points) - 1) if floor else ():
        flat = [seconds for _, seconds in points[:short]]
        curve = _fitted(points[short:]).model_copy(update={"floor": (min(flat) + max(flat)) / 2, "measured": points})
        if curve.residual <= GAIN * best.residual:
            best = curve
    return best


def _fitted(points: tuple[tuple[tuple[float, ...], float], ...]) -> Curve:
    seconds = np.array([took for _, took in points])
    powers = {1: (1,), 2: (0, 1), 3: (0, 1)}.get(len({parts for parts, _ in points}), (0, 1, 2))
    largest = np.abs(seconds).max()
    weight = 1 / np.maximum(np.abs(seconds), SMALL * largest) if largest else np.ones_like(seconds)
    columns = np.array([[sum(tokens**power for tokens in parts) for power in powers] for parts, _ in points])
    scale = columns.max(axis=0)  # columns of one size: squares of token counts are huge
    found, _ = nnls(columns / scale * weight[:, None], seconds * weight)
    terms = dict(zip(powers, (found / scale).tolist(), strict=True))
    return Curve(constant=terms.get(0, 0.0), linear=terms[1], quadratic=terms.get(2, 0.0), measured=points)
