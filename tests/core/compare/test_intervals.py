"""Intervals against SciPy, against the defining equation, and against simulation."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from vflowopt.compare.intervals import Z95, paired_difference, wilson


def test_the_quantile():
    assert pytest.approx(norm.ppf(0.975)) == Z95


@pytest.mark.parametrize(("right", "questions"), [(0, 1), (1, 1), (0, 40), (40, 40), (37, 40), (200, 400), (1, 7)])
def test_wilson_is_scipys(right, questions):
    expected = binomtest(right, questions).proportion_ci(0.95, method="wilson")
    assert wilson(right, questions) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("right", [12.5, 3.25])
def test_wilson_bounds_solve_the_score_equation_for_means_over_seeds(right):
    for bound in wilson(right, 20):
        assert abs(right / 20 - bound) == pytest.approx(Z95 * math.sqrt(bound * (1 - bound) / 20))


def test_paired_difference_by_the_published_formula():
    ours = [True] * 8 + [True] * 5 + [False] * 2 + [False] * 3
    theirs = [True] * 8 + [False] * 5 + [True] * 2 + [False] * 3
    gap, low, high = paired_difference(ours, theirs)
    up, down = 6 / 20, 3 / 20  # 5 gained, 2 lost, of 18; one more of each, of two more
    half = Z95 * math.sqrt((up + down - (up - down) ** 2) / 20)
    assert (gap, low, high) == pytest.approx((3 / 18, up - down - half, up - down + half))


def test_paired_difference_is_antisymmetric_and_narrower_than_separate_intervals():
    rng = np.random.default_rng(0)
    theirs = rng.random(300) < 0.9
    ours = np.where(rng.random(300) < 0.04, ~theirs, theirs)
    gap, low, high = paired_difference(ours.tolist(), theirs.tolist())
    assert paired_difference(theirs.tolist(), ours.tolist()) == pytest.approx((-gap, -high, -low))
    separate = sum(upper - lower for lower, upper in (wilson(int(one.sum()), 300) for one in (ours, theirs)))
    assert high - low < 0.7 * separate


def test_paired_difference_covers_the_true_one():
    """Exactly, over all outcomes of 40 questions: gained and lost ones are multinomial."""
    questions, gain, loss = 40, 0.15, 0.08
    covered = 0.0
    for gained, lost in itertools.product(range(questions + 1), repeat=2):
        same = questions - gained - lost
        if same < 0:
            continue
        ways = math.comb(questions, gained) * math.comb(questions - gained, lost)
        probability = ways * gain**gained * loss**lost * (1 - gain - loss) ** same
        ours = [True] * gained + [False] * lost + [True] * same
        theirs = [False] * gained + [True] * lost + [True] * same
        _, low, high = paired_difference(ours, theirs)
        covered += probability * (low <= gain - loss <= high)
    assert 0.935 <= covered <= 0.985
