"""Confidence intervals of accuracies, and of the difference between two accuracies on the same questions."""

import math
from collections.abc import Sequence

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""


def wilson(right: float, questions: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share of questions; unlike the usual one it holds near 0 and 1, too.

    Args:
        right: questions answered right; not whole where it is a mean over seeds.
        questions: questions asked, at least 1.
        z: quantile of the standard normal distribution.

    Returns:
        Lower and upper bound in [0, 1].

    Source: Wilson, "Probable inference, the law of succession, and statistical inference" (1927).
    """
    share, weight = right / questions, z * z / questions
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool], z: float = Z95) -> tuple[float, float, float]:
    """Difference in accuracy on the same questions, with an interval that uses the pairing.

    Questions that both answer alike say nothing about the difference, which makes the interval much narrower than two
    separate ones suggest.

    Args:
        ours: whether each question was answered right.
        theirs: the same of what it is compared with.
        z: quantile of the standard normal distribution.

    Returns:
        Difference ours - theirs, lower and upper bound, each in [-1, 1].

    Source: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions based on
    paired data" (2012).
    """
    gained = sum(own and not other for own, other in zip(ours, theirs, strict=True))
    lost = sum(other and not own for own, other in zip(ours, theirs, strict=True))
    up, down = (gained + 1) / (len(ours) + 2), (lost + 1) / (len(ours) + 2)
    half = z * math.sqrt((up + down - (up - down) ** 2) / (len(ours) + 2))
    return (gained - lost) / len(ours), max(-1.0, up - down - half), min(1.0, up - down + half)
