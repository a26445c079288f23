"""Interleaved timing: every task once per round, in alternating order, the first round thrown away."""

import pytest

from vflowopt.benchmark import Benchmark, BenchRow
from vflowopt.timing import Spread, Timing, interleaved


def test_rounds_alternate_and_the_first_only_warms_up():
    ran = []
    names = ("a", "b", "c")
    timings = interleaved({name: (lambda name=name: ran.append(name)) for name in names}, rounds=3)
    assert ran == ["c", "b", "a", "a", "b", "c", "c", "b", "a", "a", "b", "c"]
    assert set(timings) == set(names)
    assert all(timing.wall.rounds == timing.cpu.rounds == 3 for timing in timings.values())


def test_every_run_is_reported_warming_up_included():
    seen = []
    interleaved({"a": lambda: None, "b": lambda: None}, rounds=2, after_task=seen.append)
    assert len(seen) == 6


def test_spread_is_median_and_quartiles():
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0, 1)
    assert Spread.of([2.0, 4.0]).scaled(0.5).median == 1.5


def test_ratios_are_against_the_first_row():
    def row(name, flops, wall, cpu):
        timing = Timing(Spread.of([wall]), Spread.of([cpu]))
        own = {"LM prefill": timing, "vision tower" if name == "unpruned" else "importance": timing}
        return BenchRow(name, 1.0, (10,), (10,), flops, 100, own)

    measured = Benchmark("cpu", (row("unpruned", 100, 2.0, 4.0), row("half", 50, 1.25, 2.0)))
    half = measured.rows[1]
    assert measured.flops_ratio(half) == 2
    assert measured.speedup(half, "LM prefill") == pytest.approx(1.6)
    assert measured.speedup(half, "LM prefill", cpu=True) == pytest.approx(2.0)
    assert measured.importance_share(half) == pytest.approx(0.625)
    assert measured.speedup(half, "end-to-end prefill") is None
