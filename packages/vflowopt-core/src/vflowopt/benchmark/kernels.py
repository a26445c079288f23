"""What an accelerator did during a run, beside the clock on the wall: how long it idled."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kernels:
    """One run on an accelerator, as its profiler saw it.

    Attributes:
        launches: calls by which the host gave the device kernels, or whole graphs of them; ``None`` if the profiler
            did not see them.
        count: kernels that ran.
        seconds: sum of their durations.
        busy: seconds in which a kernel, a copy or a fill ran, those that overlap counted once.
    """

    launches: int | None
    count: int
    seconds: float
    busy: float

    def idle(self, wall: float) -> float:
        """Share of ``wall`` seconds, of a run without the profiler, in which the device had nothing to do."""
        return max(0.0, 1.0 - self.busy / wall)
