"""Interleaved timing: every task once per round, in alternating order, the first round thrown away."""

import pytest

from vflowopt.benchmark.timing import Moment, Spread, Timing, interleaved


class Clock:
    """Stands still but for what tasks take."""

    def __init__(self):
        self.wall = self.cpu = 100.0

    def __call__(self):
        return Moment(self.wall, self.cpu)

    def task(self, *durations):
        """A task that takes these durations, one after the other; half of each on the CPU."""
        left = list(durations)

        def run():
            duration = left.pop(0)
            self.wall += duration
            self.cpu += duration / 2

        return run


def test_rounds_alternate_and_the_first_only_warms_up():
    ran = []
    names = ("a", "b", "c")
    timings = interleaved({name: (lambda name=name: ran.append(name)) for name in names}, rounds=3)
    assert ran == ["c", "b", "a", "a", "b", "c", "c", "b", "a", "a", "b", "c"]
    assert set(timings) == set(names)
    assert all(timing.wall.rounds == timing.cpu.rounds == 3 for timing in timings.values())


def test_times_are_those_of_the_measured_rounds_in_their_order():
    clock = Clock()
    tasks = {"a": clock.task(50.0, 3.0, 1.0, 2.0), "b": clock.task(70.0, 8.0, 4.0, 6.0)}
    timings = interleaved(tasks, rounds=3, clock=clock)
    assert timings["a"].wall.values == (3.0, 1.0, 2.0)
    assert timings["b"].wall == Spread(6.0, 5.0, 7.0, (8.0, 4.0, 6.0))
    assert timings["b"].cpu.median == 3.0


def test_what_happens_after_a_task_is_not_timed():
    clock = Clock()

    def slow(_):
        clock.wall += 1000.0

    timings = interleaved({"a": clock.task(1.0, 1.0, 1.0)}, rounds=2, after_task=slow, clock=clock)
    assert timings["a"].wall.values == (1.0, 1.0)


def test_every_run_is_reported_warming_up_included():
    seen = []
    interleaved({"a": lambda: None, "b": lambda: None}, rounds=2, after_task=seen.append)
    assert len(seen) == 6


def test_spread_is_median_and_quartiles():
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0, (4.0, 1.0, 3.0, 2.0, 5.0))
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, (2.0,))
    assert Spread.of([2.0, 4.0]).scaled(0.5) == Spread.of([1.0, 2.0])


def test_ratios_are_taken_round_by_round():
    """A neighbour that halves the speed in one round changes no ratio."""
    slow_once = [1.0, 2.0, 1.0]
    full, half = Spread.of([10 * factor for factor in slow_once]), Spread.of([5 * factor for factor in slow_once])
    assert full.over(half) == Spread(2.0, 2.0, 2.0, (2.0, 2.0, 2.0))
    with pytest.raises(ValueError, match="shorter"):
        full.over(Spread.of([1.0]))


def test_a_timing_scales_both_clocks():
    timing = Timing(Spread.of([8.0]), Spread.of([4.0])).scaled(1 / 8)
    assert (timing.wall.median, timing.cpu.median) == (1.0, 0.5)
