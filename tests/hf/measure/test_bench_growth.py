"""Growth: the law of a made-up clock is found, sizes that would take too long are left out and said to be."""

import pytest

from vflowopt import Strategy
from vflowopt.benchmark.timing import Moment
from vflowopt_hf.measure.bench import measure_growth

STRATEGY = Strategy.preset("llava-onevision-7b/25")


class SquareClock:
    """Between any two looks at it, a second passes per million of squared tokens of the task at hand."""

    def __init__(self):
        self.time, self.tokens = 0.0, 0

    def __call__(self):
        self.time += self.tokens**2 / 1e6
        return Moment(self.time, self.time)

    def on_task(self, _name, tokens):
        self.tokens = tokens


def test_the_clock_decides_exponent_and_what_is_left_out():
    clock = SquareClock()
    grown = measure_growth(
        (32, 64, 128, 256), STRATEGY, rounds=2, limit=0.025, device="cpu", on_task=clock.on_task, clock=clock
    )
    planning, _, one_view = grown.series
    for series in (planning, one_view):
        assert [point.tokens for point in series.points] == [32, 64, 128, 256]
        assert [point.time is not None for point in series.points] == [True, True, True, False]
        assert series.exponent() == pytest.approx(2)
        assert series.points[1].time.wall.values == pytest.approx((0.004096, 0.004096))
    assert grown.limit == 0.025


def test_what_is_worked_on_is_reported():
    grown = measure_growth((500,), STRATEGY, rounds=1, limit=60, device="cpu", dtype="bfloat16")
    planning, views, one = grown.series
    assert [point.held for point in one.points] == [2 * 16 * 72 * 2 * 500]
    assert [(point.tokens, point.held) for point in views.points] == [(729, 2 * 16 * 72 * 2 * 729)]  # whole views
    assert all(point.time for series in grown.series for point in series.points)
    assert "bfloat16" in grown.device
    assert planning.name == "planning"
