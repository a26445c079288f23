"""Several processes that share the evaluations of one search, as the core sees them; no framework is imported."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from vflowopt.adapter import Evaluator

Item = TypeVar("Item")
Result = TypeVar("Result")


class Processes(Protocol):
    """The processes among which this one runs. Process 0 leads: it alone searches, records and prints."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def own(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process' share of what all have to do: every ``size``-th item, from number ``rank`` on.

        Raises:
            InputError: there are fewer items than processes.
        """
        ...

    def evaluator(self, build: Callable[[], Any]) -> Evaluator:
        """An evaluator over the samples of all processes.

        Args:
            build: makes the evaluator over this process' own samples.

        Raises:
            ProcessError: another process failed.
        """
        ...

    def lead(self, evaluator: Evaluator, work: Callable[[], Result]) -> Result | None:
        """What ``work`` returns, which process 0 does; the others evaluate what it asks for, then return ``None``.

        Raises:
            ProcessError: another process failed.
        """
        ...


@runtime_checkable
class SpreadingAdapter(Protocol):
    """What an adapter offers besides if evaluations are to be spread over processes; optional."""

    def processes(self) -> AbstractContextManager[Processes]:
        """The processes that were launched together with this one; itself alone if none were."""
        ...


@dataclass(frozen=True)
class Alone:
    """A single process."""

    rank: int = 0
    size: int = 1

    def own(self, items: Sequence[Item]) -> Sequence[Item]:
        """All of them."""
        return items

    def evaluator(self, build: Callable[[], Any]) -> Evaluator:
        """The evaluator itself."""
        evaluator: Evaluator = build()
        return evaluator

    def lead(self, evaluator: Evaluator, work: Callable[[], Result]) -> Result | None:  # noqa: ARG002
        """What ``work`` returns."""
        return work()


@contextmanager
def processes_of(adapter: object) -> Iterator[Processes]:
    """The processes that were launched together with this one, for an adapter that can make use of them."""
    if not isinstance(adapter, SpreadingAdapter):
        yield Alone()
        return
    with adapter.processes() as processes:
        yield processes
