"""How many bytes keys and values take: known from the rows of each decoder layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class CacheShape:
    """A model's KV cache after a prefill.

    Attributes:
        row_bytes: for each decoder layer, bytes of keys and values of one row; 0 if it stores none (recurrent).
        limits: for each decoder layer how many rows its cache holds at most, as with a sliding window; ``None`` if it
            holds all.
    """

    row_bytes: tuple[int, ...]
    limits: tuple[int | None, ...]

    def bytes(self, lengths: Sequence[int]) -> int:
        """Bytes of one sample.

        Args:
            lengths: rows that each decoder layer processes.
        """
        return sum(
            size * (length if limit is None else min(length, limit))
            for size, length, limit in zip(self.row_bytes, lengths, self.limits, strict=True)
        )

    def most(self, retention: float) -> float:
        """The most bytes that a visual token takes under any stages of an average retention; limits are ignored.

        Layers store different amounts, so it matters where tokens are. Which layers a token sees is a prefix of them,
        and the mean length of the prefixes is given: the least concave function above their bytes says the rest.

        Args:
            retention: average retention, 0 to 1.
        """
        seen = retention * len(self.row_bytes)
        reached = list(enumerate(accumulate(self.row_bytes, initial=0)))
        before = [(layers, size) for layers, size in reached if layers <= seen]
        after = [(layers, size) for layers, size in reached if layers > seen]
        chords = [low + (high - low) * (seen - first) / (last - first) for first, low in before for last, high in after]
        return max([before[-1][1], *chords])
