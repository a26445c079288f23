"""Fair timing on a machine that drifts: interleaved rounds in one process, medians with quartiles."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple


class Moment(NamedTuple):
    """What clocks show, in seconds: the wall's, and the process's CPU time over all of its threads."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> "Moment":
        """Read the clocks."""
        return cls(time.perf_counter(), time.process_time())


@dataclass(frozen=True)
class Spread:
    """Repeated measurements and their median and quartiles.

    Attributes:
        median: of all rounds.
        low: first quartile.
        high: third quartile.
        values: one per round, in the order of the rounds; seconds unless told otherwise.
    """

    median: float
    low: float
    high: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise; a single value is its own spread."""
        low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [*values] * 3
        return cls(statistics.median(values), low, high, tuple(values))

    @property
    def rounds(self) -> int:
        """Number of measurements."""
        return len(self.values)

    def scaled(self, factor: float) -> "Spread":
        """All of it times ``factor``."""
        return Spread.of([value * factor for value in self.values])

    def over(self, other: "Spread") -> "Spread":
        """Ratios of the measurements of each round; a machine that is slow for a round is so for both."""
        return Spread.of([mine / its for mine, its in zip(self.values, other.values, strict=True)])


@dataclass(frozen=True)
class Timing:
    """What a task took: wall-clock time, and the process's CPU time over all of its threads."""

    wall: Spread
    cpu: Spread

    def scaled(self, factor: float) -> "Timing":
        """All of it times ``factor``, for example for one of several equal steps."""
        return Timing(self.wall.scaled(factor), self.cpu.scaled(factor))


def interleaved(
    tasks: Mapping[str, Callable[[], object]],
    rounds: int,
    after_task: Callable[[str], None] = lambda _: None,
    clock: Callable[[], Moment] = Moment.now,
    within: Callable[[str], AbstractContextManager[object]] = lambda _: nullcontext(),
) -> dict[str, Timing]:
    """Time every task once per round, after one round of warming up.

    A process that slows down (heat, neighbours) slows all tasks of a round alike, so ratios of medians hold. Every
    other round runs in reverse order, so that no task always follows the same one.

    Args:
        tasks: what to time, by name; each returns when its work is done, on an accelerator too.
        rounds: measured rounds.
        after_task: called with the name after each run, warm-up included; not timed.
        clock: gives the time.
        within: given a name, the block in which the task runs; entering and leaving it is not timed.
    """
    measured: dict[str, list[Moment]] = {name: [] for name in tasks}
    names = list(tasks)
    for turn in range(rounds + 1):
        for name in names if turn % 2 else reversed(names):
            with within(name):
                start = clock()
                tasks[name]()
                end = clock()
            if turn:
                measured[name].append(Moment(end.wall - start.wall, end.cpu - start.cpu))
            after_task(name)
    return {
        name: Timing(Spread.of([taken.wall for taken in took]), Spread.of([taken.cpu for taken in took]))
        for name, took in measured.items()
    }
