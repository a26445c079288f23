"""Fair timing on a machine that drifts: interleaved rounds in one process, medians with quartiles."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated measurements, in seconds.

    Attributes:
        median: of all rounds.
        low: first quartile.
        high: third quartile.
        rounds: number of measurements.
    """

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Summarise; a single value is its own spread."""
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        return cls(statistics.median(values), low, high, len(values))

    def scaled(self, factor: float) -> "Spread":
        """All of it times ``factor``."""
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.rounds)


@dataclass(frozen=True)
class Timing:
    """What a task took: wall-clock time, and the process's CPU time over all of its threads."""

    wall: Spread
    cpu: Spread

    def scaled(self, factor: float) -> "Timing":
        """All of it times ``factor``, for example for one of several equal steps."""
        return Timing(self.wall.scaled(factor), self.cpu.scaled(factor))


def interleaved(
    tasks: Mapping[str, Callable[[], object]], rounds: int, after_task: Callable[[str], None] = lambda _: None
) -> dict[str, Timing]:
    """Time every task once per round, after one round of warming up.

    A process that slows down (heat, neighbours) slows all tasks of a round alike, so ratios of medians hold. Every
    other round runs in reverse order, so that no task always follows the same one.

    Args:
        tasks: what to time, by name; each returns when its work is done, on an accelerator too.
        rounds: measured rounds.
        after_task: called with the name after each run, warm-up included; not timed.
    """
    wall: dict[str, list[float]] = {name: [] for name in tasks}
    cpu: dict[str, list[float]] = {name: [] for name in tasks}
    names = list(tasks)
    for turn in range(rounds + 1):
        for name in names if turn % 2 else reversed(names):
            cpu_start, start = time.process_time(), time.perf_counter()
            tasks[name]()
            end, cpu_end = time.perf_counter(), time.process_time()
            if turn:
                wall[name].append(end - start)
                cpu[name].append(cpu_end - cpu_start)
            after_task(name)
    return {name: Timing(Spread.of(wall[name]), Spread.of(cpu[name])) for name in tasks}
