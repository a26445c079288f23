"""The best few of a search against each other, on samples that the search never saw.

Who has scored best on a search's own samples was also lucky. Fresh samples come in blocks. After each, whoever is
worse than the leader beyond doubt, by the paired differences over all fresh samples so far, goes (successive
elimination). What is left is equal as far as anyone can tell from these samples.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

ENTRANTS = 4
"""How many race."""

BLOCKS = 3
"""How many parts fresh samples come in."""

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
    """Who is left, and their similarities on all fresh samples.

    Args:
        entrants: who races.
        parts: fresh samples, in order.
        run: similarities of an entrant on a part of the samples.
    """
    found: dict[int, tuple[float, ...]] = dict.fromkeys(entrants, ())
    for part in parts:
        if len(found) < 2:
            break
        found = {entrant: (*seen, *run(entrant, part)) for entrant, seen in found.items()}
        if min(map(len, found.values())) < 2:
            continue
        leader = max(found.values(), key=statistics.fmean)
        found = {who: seen for who, seen in found.items() if not Difference.of(leader, seen).is_certain}
    return found
