"""How many bytes keys and values take: known from the rows of each decoder layer."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CacheShape:
    """A model's KV cache after a prefill.

    Attributes:
        row_bytes: bytes of keys and values of one row in one layer.
        limits: for each decoder layer how many rows its cache holds at most, as with a sliding window; ``None`` if it
            holds all.
    """

    row_bytes: int
    limits: tuple[int | None, ...]

    def bytes(self, lengths: Sequence[int]) -> int:
        """Bytes of one sample.

        Args:
            lengths: rows that each decoder layer processes.
        """
        return self.row_bytes * sum(
            length if limit is None else min(length, limit) for length, limit in zip(lengths, self.limits, strict=True)
        )
