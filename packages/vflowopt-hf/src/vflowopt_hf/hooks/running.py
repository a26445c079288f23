"""What runs in which thread: the state of a forward lives here, never on a model.

PyTorch runs a forward in one thread from its beginning to its end. So the forward that a hook finds innermost in its
own thread is the one that called it, however many threads share the model.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import nn


@dataclass(eq=False)
class Forward:
    """A forward that runs.

    Attributes:
        module: whose forward it is.
        outer: the forward inside which it began, in the same thread.
    """

    module: nn.Module
    outer: "Forward | None" = field(default=None, init=False)


F = TypeVar("F", bound=Forward)


class _Innermost(threading.local):
    forward: Any = None


class Running(Generic[F]):
    """The forwards that run, innermost last; every thread sees its own."""

    def __init__(self) -> None:
        self._threads = _Innermost()
        self._traced: F | None = None

    @property
    def innermost(self) -> F | None:
        """The forward that runs in this thread and began last."""
        # A step that is being compiled is one trace, in which a plain attribute is a value like any other.
        found: F | None = self._traced if torch.compiler.is_compiling() else self._threads.forward
        return found

    @innermost.setter
    def innermost(self, forward: F | None) -> None:
        if torch.compiler.is_compiling():
            self._traced = forward
        else:
            self._threads.forward = forward

    def enter(self, forward: F) -> F:
        """A forward begins."""
        forward.outer = self.innermost
        self.innermost = forward
        return forward

    def leave(self, module: nn.Module) -> F | None:
        """The forward of a module ends, and with it whatever an exception left behind inside it.

        Returns:
            The forward; ``None`` if it was never entered.
        """
        forward: Any = self.innermost
        while forward is not None and forward.module is not module:
            forward = forward.outer
        if forward is not None:
            self.innermost = forward.outer
        found: F | None = forward
        return found


class Door:
    """The way into a block, for calls from all threads.

    Calls wait outside until all hooks are in place, and the end of the block waits for other threads that are inside.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: set[threading.Thread] = set()
        self._open = False

    @property
    def is_open(self) -> bool:
        """Whether the block has begun and not ended."""
        return self._open

    def enter(self) -> bool:
        """This thread goes in; tells whether it could, as the block has not ended."""
        with self._changed:
            if self._open:
                self._inside.add(threading.current_thread())
            return self._open

    def leave(self) -> None:
        """This thread goes out."""
        with self._changed:
            self._inside.discard(threading.current_thread())
            self._changed.notify_all()

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Hooks are installed inside the block; calls wait until its end, which opens the door."""
        with self._changed:
            yield
            self._open = True

    def close(self) -> None:
        """Let nobody in any more, and wait until the other threads are out."""
        with self._changed:
            self._open = False
            self._inside.discard(threading.current_thread())
            while any(thread.is_alive() for thread in self._inside):
                self._changed.wait(timeout=1)  # a thread that is killed does not say that it is out
