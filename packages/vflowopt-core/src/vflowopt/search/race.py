"""The best few of a search against each other, on samples that the search never saw.

Who has scored best on a search's own samples was also lucky. All of the best few run on all fresh samples: what tells
strategies apart at small budgets are a few hard samples, and whoever is ahead on the first ones may fail there.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

ENTRANTS = 6
"""How many race."""

BLOCKS = 3
"""How many parts fresh samples come in: an interrupted race goes on with the next."""

LEAST_SAMPLES = 4
"""Fresh samples in all below which nothing is told apart, so that nobody races."""

DOUBT = 2.0
"""Standard errors of a paired difference beyond which it is no chance."""


@dataclass(frozen=True)
class Heat:
    """One entrant on one block of fresh samples.

    Attributes:
        entry: index of the evaluation whose strategy it is.
        first: index of the block's first sample.
        last: index of the one after its last.
        similarities: of these samples.
        seconds: how long it took.
    """

    entry: int
    first: int
    last: int
    similarities: tuple[float, ...]
    seconds: float = 0.0

    @property
    def samples(self) -> range:
        """Indices of the samples."""
        return range(self.first, self.last)

    def to_json(self) -> dict[str, Any]:
        """The heat as JSON values; floats survive exactly."""
        return {"heat": self.entry, "samples": [self.first, self.last], "similarities": list(self.similarities),
                "seconds": self.seconds}  # fmt: skip

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Heat":
        """Inverse of :meth:`to_json`.

        Raises:
            TypeError, ValueError, KeyError: the data are something else.
        """
        first, last = data["samples"]
        similarities = tuple(float(value) for value in data["similarities"])
        return cls(int(data["heat"]), int(first), int(last), similarities, float(data["seconds"]))


@dataclass(frozen=True)
class Difference:
    """How much better the first of two is on the same samples.

    Attributes:
        mean: paired difference.
        error: its standard error.
    """

    mean: float
    error: float

    @classmethod
    def of(cls, one: Sequence[float], other: Sequence[float]) -> "Difference":
        """Of similarities of the same samples, two or more."""
        differences = [a - b for a, b in zip(one, other, strict=True)]
        return cls(statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences)))

    @property
    def is_certain(self) -> bool:
        """Whether the first is better, beyond doubt."""
        return self.mean > DOUBT * self.error


def blocks(fresh: range) -> list[range]:
    """Fresh samples in :data:`BLOCKS` parts that differ by one at most; none if they are too few to tell anything."""
    if len(fresh) < LEAST_SAMPLES:
        return []
    ends = [fresh.start + len(fresh) * part // BLOCKS for part in range(BLOCKS + 1)]
    return [range(a, b) for a, b in itertools.pairwise(ends)]


def race(
    entrants: Sequence[int], parts: Sequence[range], run: Callable[[int, range], Sequence[float]]
) -> dict[int, tuple[float, ...]]:
    """Similarities of all on all fresh samples, by who races.

    Args:
        entrants: who races.
        parts: fresh samples, in order.
        run: similarities of an entrant on a part of the samples.
    """
    return {entrant: tuple(value for part in parts for value in run(entrant, part)) for entrant in entrants}
