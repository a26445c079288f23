"""Peak memory of one run: torch's own count on CUDA, the resident set's high-water mark on Linux, else none."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

from vflowopt.benchmark import Memory

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

CUDA_SOURCE = "bytes that torch has allocated on the device (torch.cuda.max_memory_allocated)"
RESIDENT_SOURCE = "resident set of the process and its high-water mark (VmHWM, reset before each part)"


class MemoryMeter:
    """Measures the memory of single runs on one device.

    Attributes:
        source: how; empty if it cannot be measured here.
    """

    def __init__(self, device: torch.device) -> None:
        gc.collect()  # once: it takes longer than many a task
        self._device = device
        if device.type == "cuda":
            self.source, self._measure = CUDA_SOURCE, self._on_cuda
        elif device.type == "cpu" and _resident_can_be_measured():
            self.source, self._measure = RESIDENT_SOURCE, _resident
        else:
            self.source, self._measure = "", _none

    def measure(self, task: Callable[[], object]) -> Memory | None:
        """Run ``task`` once; ``None`` if memory cannot be measured here."""
        return self._measure(task)

    def _on_cuda(self, task: Callable[[], object]) -> Memory | None:
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        kept = task()
        torch.cuda.synchronize(self._device)
        del kept
        return Memory(before, torch.cuda.max_memory_allocated(self._device))


def _none(task: Callable[[], object]) -> Memory | None:
    task()
    return None


def _resident(task: Callable[[], object]) -> Memory | None:
    """What earlier runs freed is given back first, so that the run has to ask for what it needs."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    _CLEAR.write_text("5")  # resets the high-water mark to what is resident now
    before = _read("VmRSS")
    kept = task()
    peak = _read("VmHWM")
    del kept
    return Memory(before, max(before, peak))


def _resident_can_be_measured() -> bool:
    try:
        _CLEAR.write_text("5")
        return _read("VmHWM") > 0
    except (OSError, StopIteration, ValueError):
        return False


def _read(field: str) -> int:
    """A field of the process's status in bytes; the file gives KiB."""
    line = next(line for line in _STATUS.read_text(encoding="ascii").splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])
