"""Who records and replays: CUDA graphs, behind an interface that tests fill with a tape."""

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Recorder(Protocol):
    """Records what a function does with tensors."""

    def on_device(self, tensor: Tensor) -> bool:
        """Whether work on a tensor can be recorded."""
        ...

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Record a function.

        Args:
            function: leaves nothing behind but its result, and may be called more than once.

        Returns:
            What replays it, and its result. The result's tensors hold numbers after a replay, until the next one of
            any recording.

        Raises:
            Exception: whatever the function has raised, or why it could not be recorded.
        """
        ...

    def aside(self, work: Callable[[], T]) -> T:
        """Do some work while a function is being recorded that is no part of the recording, and wait for it."""
        ...

    def begin(self) -> None:
        """Called where the work of a replay begins: on the device, it waits for the last one."""
        ...

    def end(self) -> None:
        """Called where the work of a replay ends."""
        ...

    @property
    def bytes(self) -> int:
        """Device memory of all recordings."""
        ...

    @property
    def limit(self) -> int:
        """How many bytes they may take."""
        ...

    def settle(self) -> None:
        """Wait until no replay runs any more."""
        ...

    def forget(self) -> None:
        """All recordings are gone."""
        ...


class CudaRecorder:
    """CUDA graphs of one device that share their memory, as they never run at once.

    Args:
        device: the device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream, self._beside = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._last = torch.cuda.Event()
        self._recorded, self._bytes = 0, 0

    def on_device(self, tensor: Tensor) -> bool:
        """See :meth:`Recorder.on_device`."""
        return tensor.device.type == "cuda"

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """See :meth:`Recorder.record`."""
        graph = torch.cuda.CUDAGraph()
        with ExitStack() as stack:
            stack.enter_context(torch.cuda.device(self._device))
            # A capture that fails at its end leaves its stream in place of this one.
            stack.enter_context(torch.cuda.stream(torch.cuda.current_stream(self._device)))
            # Copies on another stream are allowed meanwhile, of this thread and of others.
            capture: Any = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="relaxed")
            try:
                with capture:
                    before = torch.cuda.memory_reserved(self._device)
                    result = function()
                    self._bytes += max(0, torch.cuda.memory_reserved(self._device) - before)
            except BaseException:
                self._recover()
                raise
        self._recorded += 1
        return graph.replay, result

    def aside(self, work: Callable[[], T]) -> T:
        """See :meth:`Recorder.aside`."""
        with torch.cuda.stream(self._beside):
            result = work()
        self._beside.synchronize()
        return result

    def _recover(self) -> None:
        """What a capture that fails at its end does not do.

        The allocator would go on taking memory from the pool, and the generator of random numbers would go on counting
        for a graph until the end of some other capture.
        """
        with suppress(Exception):
            torch._C._cuda_endAllocateToPool(torch.cuda._utils._get_device_index(self._device), self._pool)
        with suppress(Exception), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=self._stream):
            torch.zeros(1, device=self._device)
        if not self._recorded:  # a pool that nobody holds any more cannot be entered again
            self._pool = torch.cuda.graph_pool_handle()

    def begin(self) -> None:
        """See :meth:`Recorder.begin`."""
        torch.cuda.current_stream(self._device).wait_event(self._last)

    def end(self) -> None:
        """See :meth:`Recorder.end`."""
        self._last.record(torch.cuda.current_stream(self._device))

    @property
    def bytes(self) -> int:
        """See :meth:`Recorder.bytes`."""
        return self._bytes

    @property
    def limit(self) -> int:
        """See :meth:`Recorder.limit`: a quarter of the device's memory."""
        return int(torch.cuda.get_device_properties(self._device).total_memory) // 4

    def settle(self) -> None:
        """See :meth:`Recorder.settle`."""
        self._last.synchronize()

    def forget(self) -> None:
        """See :meth:`Recorder.forget`."""
        self._pool, self._recorded, self._bytes = torch.cuda.graph_pool_handle(), 0, 0


def recorder_for(device: torch.device) -> Recorder | None:
    """What records on a device; ``None`` if nothing does."""
    return CudaRecorder(device) if device.type == "cuda" and torch.version.hip is None else None
