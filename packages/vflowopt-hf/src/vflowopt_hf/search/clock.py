"""How long some forwards took, without waiting for any of them while it runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class ForwardClock:
    """Adds up the time of forwards on a device.

    Args:
        device: where they run. On CUDA the device itself notes the times; on other accelerators there are none.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._host = 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """The time inside the block counts."""
        if self._device.type == "cuda":
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            stream = torch.cuda.current_stream(self._device)
            begin.record(stream)
            yield
            end.record(stream)
            self._events.append((begin, end))
            return
        begun = time.perf_counter()
        yield
        self._host += time.perf_counter() - begun

    def seconds(self) -> float | None:
        """All of it; read it when the results are there. ``None`` where time cannot be measured."""
        if self._device.type == "cuda":
            for _, end in self._events:
                end.synchronize()
            return float(sum(begin.elapsed_time(end) for begin, end in self._events)) / 1e3
        return self._host if self._device.type == "cpu" else None
