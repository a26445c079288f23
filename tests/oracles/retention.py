"""Eq. 5, line 5 of Algorithm 1, and the counts of each stage."""

import math
from fractions import Fraction


def average_retention(stages, ratios, num_layers):
    """Eq. 5: mean over decoder layers of the share of visual tokens that the layer sees, layer by layer."""
    total = 0.0
    for layer in range(num_layers):
        share = 1.0
        for start, ratio in zip(stages, ratios, strict=True):
            if layer >= start:
                share *= ratio
        total += share
    return total / num_layers


def exact_counts(ratios, tokens):
    """floor(R1 * ... * Rs * N + 1/2), at least 1, in rational arithmetic; how far the closest is from a tie."""
    counts, share, margin = [], Fraction(1), 1.0
    for ratio in ratios:
        share *= Fraction(str(ratio))  # the decimal number that the user wrote
        target = share * tokens + Fraction(1, 2)
        counts.append(max(1, math.floor(target)))
        margin = min(margin, float(abs(target - round(target))))
    return tuple(counts), margin


def last_ratio(ratios, budget, stages, num_layers):
    """Algorithm 1, line 5, by bisection on Eq. 5, which grows with the last ratio."""
    low, high = 0.0, 2.0
    for _ in range(80):
        middle = (low + high) / 2
        if average_retention(stages, (*ratios, middle), num_layers) < budget:
            low = middle
        else:
            high = middle
    return (low + high) / 2
