"""Schedules that share a sample's tokens among its images by content: exact in all, or refused."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vflowopt import Progressive
from vflowopt.errors import StrategyError
from vflowopt.plans.sharing import counts_of
from vflowopt.testing import host_units


class ByEntropy(Progressive):
    """One stage, whose tokens go to units in proportion to the entropy of their patches; at least one to each."""

    name: Literal["by-entropy"] = "by-entropy"

    @property
    def needs(self):
        return frozenset({"entropy"})

    def unit_counts(self, units):
        sizes = [unit.layout.tokens for unit in units]
        total = sum(self.counts(size)[0] for size in sizes)
        worth = [float(np.asarray(unit.entropy).mean()) + 1e-6 for unit in units]
        taken = [1] * len(units)
        for _ in range(total - len(units)):
            open_units = [i for i, size in enumerate(sizes) if taken[i] < size]
            taken[max(open_units, key=lambda i: worth[i] / taken[i])] += 1
        return [(count,) for count in taken]


class Given(Progressive):
    name: Literal["given"] = "given"
    numbers: tuple[tuple[int, ...], ...] = ()

    def unit_counts(self, units):
        return self.numbers


@given(units=st.lists(host_units(), max_size=3), retention=st.floats(0.01, 1))
def test_by_default_every_unit_has_its_own_counts(units, retention):
    schedule = Progressive(stages=(0, 3), retention=(retention, 0.5))
    assert counts_of(schedule, units) == [schedule.counts(unit.layout.tokens) for unit in units]


@given(units=st.lists(host_units(), min_size=1, max_size=4), retention=st.floats(0.3, 1))
def test_shares_follow_content_and_their_sum_the_budget(units, retention):
    schedule = ByEntropy(stages=(0,), retention=(retention,))
    usual = sum(schedule.counts(unit.layout.tokens)[0] for unit in units)
    if usual < len(units):
        return
    shared = counts_of(schedule, units)
    assert sum(count for (count,) in shared) == usual
    assert all(1 <= count <= unit.layout.tokens for (count,), unit in zip(shared, units, strict=True))


class Sized:
    """A unit of so many tokens."""

    def __init__(self, tokens):
        self.layout = self
        self.tokens = tokens


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        (((3, 2),), "not 2 numbers for each of 2 units"),
        (((5,), (5,)), "not 2 numbers for each of 2 units"),
        (((0, 0), (10, 5)), r"gives \(0, 0\) for a unit of 10 tokens; numbers must be from 1 to 10"),
        (((11, 1), (1, 1)), r"gives \(11, 1\) for a unit of 10 tokens"),
        (((4, 5), (6, 1)), r"gives \(4, 5\) for a unit of 10 tokens; numbers must be from 1 to 10 and never grow"),
        (((4, 3), (5, 3)), "shares 9 tokens among the units of a sample in stage 0, but its counts say 10"),
        (((4, 3), (6, 3)), "shares 6 tokens among the units of a sample in stage 1, but its counts say 4"),
    ],
)
def test_what_does_not_meet_the_budget_is_refused(numbers, message):
    schedule = Given(stages=(0, 3), retention=(0.5, 0.4), numbers=numbers)
    with pytest.raises(StrategyError, match=message) as caught:
        counts_of(schedule, [Sized(10), Sized(10)])
    assert "schedule 'given'" in str(caught.value)


def test_other_shares_of_the_same_sums_are_taken():
    numbers = ((2, 1), (8, 3))
    assert counts_of(Given(stages=(0, 3), retention=(0.5, 0.4), numbers=numbers), [Sized(10), Sized(10)]) == list(
        numbers
    )
