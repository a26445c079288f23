"""What a comparison is given: questions, how much to do, and someone who looks on."""

from dataclasses import dataclass
from typing import Protocol

from vflowopt.adapter import Inputs, LoadedModel
from vflowopt.compare.cells import Result


class Asked(Protocol):
    """A question with its accepted answers."""

    @property
    def answers(self) -> tuple[str, ...]:
        """Accepted answers."""
        ...

    def prepare(self, loaded: LoadedModel) -> Inputs:
        """Model inputs of batch size 1."""
        ...


class Watch(Protocol):
    """Looks on while cells are filled."""

    def begin(self, what: str, total: int) -> None:
        """So many steps of something begin."""
        ...

    def advance(self) -> None:
        """One of them is done."""
        ...

    def done(self, result: Result) -> None:
        """A cell is on disk."""
        ...


@dataclass(frozen=True)
class Effort:
    """How much is done per cell.

    Attributes:
        max_new_tokens: length of an answer at most.
        rounds: measured rounds of the latency; 0 measures none.
        initial: of a search, see :func:`vflowopt.optimize`.
        iterations: likewise.
        keep: keep vision features in memory.
    """

    max_new_tokens: int = 16
    rounds: int = 5
    initial: int = 10
    iterations: int = 30
    keep: bool = True
