"""What an accelerator does in one run, by torch's profiler."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from vflowopt.benchmark import Kernels
from vflowopt_hf.measure.bench.tasks import Task

_MOVES = ("Memcpy", "Memset")
"""How the profiler's names of copies and fills begin; all else on the device is a kernel."""

_MICROSECOND = 1e-6


def can_profile(device: torch.device) -> bool:
    """Whether the profiler sees what a device does; on the CPU there are no kernels to see."""
    return device.type == "cuda" and ProfilerActivity.CUDA in torch.profiler.supported_activities()


def profiled(task: Task, device: torch.device) -> Kernels | None:
    """Run once under the profiler, on a device for which :func:`can_profile` holds; ``None`` as in :func:`summed`."""
    torch.cuda.synchronize(device)
    # Operators of the host are left out: noting them would slow it down, and none is asked for.
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as seen:
        task()
        torch.cuda.synchronize(device)
    return summed(seen.events() or ())


def summed(events: Iterable[Any]) -> Kernels | None:
    """Sums over the events of a profile (:class:`torch.autograd.profiler_util.FunctionEvent`).

    Returns:
        ``None`` if nothing ran on a device, or the profiler did not see it.
    """
    spans, kernels, launches = [], [], 0
    for event in events:
        start, end = event.time_range.start * _MICROSECOND, event.time_range.end * _MICROSECOND
        if event.device_type.name == "CPU":
            launches += "Launch" in event.name
        elif not event.is_user_annotation:
            spans.append((start, end))
            if not event.name.startswith(_MOVES):
                kernels.append(end - start)
    if not spans:
        return None
    return Kernels(launches or None, len(kernels), sum(kernels), _covered(spans))


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
