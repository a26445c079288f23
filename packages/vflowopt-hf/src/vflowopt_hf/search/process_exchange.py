"""Python objects exchanged between processes, so that none waits for another for ever."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from vflowopt.errors import ProcessError


@dataclass(frozen=True)
class Exchange:
    """Processes that can exchange Python objects.

    Attributes:
        rank: number of this process.
        size: how many there are.
        group: a gloo group of all of them.
    """

    rank: int
    size: int
    group: dist.ProcessGroup | None

    def exchange(self, value: Any) -> list[Any]:
        """The values of all processes, by rank.

        Raises:
            ProcessError: a process is gone or too late.
        """
        found: list[Any] = [None] * self.size
        with self._in_contact():
            dist.all_gather_object(found, value, group=self.group)
        return found

    def broadcast(self, value: Any) -> Any:
        """The value of process 0.

        Raises:
            ProcessError: a process is gone or too late.
        """
        box = [value]
        with self._in_contact():
            dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    @contextmanager
    def _in_contact(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise ProcessError(
                f"process {self.rank} of {self.size} lost contact with the others: {str(error).splitlines()[0]}; what "
                f"stopped another one is in that one's output, and the journal resumes"
            ) from error


@contextmanager
def held_interrupts() -> Iterator[Callable[[], bool]]:
    """Inside the block Ctrl-C is only noted: an exception amid an exchange would leave the others waiting."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread is interrupted
        return
    before = signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
