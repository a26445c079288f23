"""Eq. 1, 2 and 4: calibration and importance of patches."""

import math

import numpy as np


def received(attention, queries=None):
    """r_j = sum_i A_ij over the query rows i in ``queries`` (a set; None is all), of one view [patches, patches]."""
    patches = len(attention)
    sums = [0.0] * patches
    for i in range(patches):
        if queries is None or i in queries:
            for j in range(patches):
                sums[j] += float(attention[i][j])
    return sums


def calibration_set(attention, threshold):
    """Eq. 1-2: K = {j : r_j > t * mean(r)}; all patches if that is empty, or if t = 0 (plain mean attention)."""
    sums = received(attention)
    tau = threshold * sum(sums) / len(sums)
    chosen = {j for j, value in enumerate(sums) if value > tau}
    return set(range(len(sums))) if threshold == 0 or not chosen else chosen


def calibration_margin(attention, threshold):
    """How far the closest r_j is from tau, relative to tau: too close, and float32 may decide otherwise."""
    sums = received(attention)
    tau = threshold * sum(sums) / len(sums)
    return min(abs(value - tau) for value in sums) / max(tau, 1e-30)


def softmax(values):
    """exp(h_i) / sum_j exp(h_j)."""
    exponents = [math.exp(float(value)) for value in values]
    return [value / sum(exponents) for value in exponents]


def importance(attention, entropy, threshold, weight):
    """Eq. 4 for one view: I_i = sum_{k in K} A_ki + alpha * softmax_i(H)."""
    chosen = calibration_set(attention, threshold)
    term = softmax(entropy) if weight else [0.0] * len(attention)
    return np.array([a + weight * h for a, h in zip(received(attention, chosen), term, strict=True)])
