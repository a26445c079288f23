"""How times and memory grow with the number of tokens."""

import math
from dataclasses import dataclass

from vflowopt.benchmark.result import Memory
from vflowopt.benchmark.timing import Timing


@dataclass(frozen=True)
class GrowthPoint:
    """One size.

    Attributes:
        tokens: how many.
        time: ``None`` if it was not measured, because a smaller size took too long already.
        memory: around one run; ``None`` if not measured.
        held: bytes of what the task works on, there before and after it.
    """

    tokens: int
    time: Timing | None = None
    memory: Memory | None = None
    held: int = 0


@dataclass(frozen=True)
class GrowthSeries:
    """One task at several sizes, ascending."""

    name: str
    points: tuple[GrowthPoint, ...]

    def exponent(self, last: int = 0, *, cpu: bool = False) -> float | None:
        """Exponent p of the least-squares fit of time = c * tokens ** p, in logarithms.

        Args:
            last: use only so many of the largest sizes measured; 0 uses all.
            cpu: of the process's CPU time instead of the clock's, which other processes disturb less.

        Returns:
            ``None`` with fewer than two sizes measured.
        """
        timed = [(point.tokens, point.time.cpu if cpu else point.time.wall) for point in self.points if point.time]
        measured = [(math.log(tokens), math.log(spread.median)) for tokens, spread in timed][-last:]
        if len(measured) < 2:
            return None
        x_mean = sum(x for x, _ in measured) / len(measured)
        y_mean = sum(y for _, y in measured) / len(measured)
        slope = sum((x - x_mean) * (y - y_mean) for x, y in measured)
        return slope / sum((x - x_mean) ** 2 for x, _ in measured)


@dataclass(frozen=True)
class Growth:
    """Tasks at growing sizes, measured in interleaved rounds.

    Attributes:
        device: what it ran on.
        series: one per task.
        limit: seconds; sizes expected to take longer were left out.
        memory_source: how peak memory was measured; empty if it was not.
    """

    device: str
    series: tuple[GrowthSeries, ...]
    limit: float
    memory_source: str = ""
