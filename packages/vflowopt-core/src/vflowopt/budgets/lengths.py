"""Rows that each decoder layer processes: known from the number of visual tokens alone, before anything is scored."""

from collections.abc import Sequence
from dataclasses import dataclass

from vflowopt.components import Schedule
from vflowopt.components.schedule import stage_widths


@dataclass(frozen=True)
class SampleSize:
    """How long one sample is.

    Attributes:
        rows: tokens of the prompt, visual ones included, padding not.
        units: visual tokens N of each of its images and videos.
    """

    rows: int
    units: tuple[int, ...]

    @property
    def text(self) -> int:
        """Tokens that no pruning removes."""
        return self.rows - sum(self.units)

    def lengths(self, schedule: Schedule, num_layers: int) -> tuple[int, ...]:
        """Rows of each decoder layer, from the schedule's exact counts.

        Raises:
            StrategyError: a stage lies beyond the last layer.
        """
        widths = stage_widths(schedule.boundaries, num_layers)
        stages = zip(*(schedule.counts(tokens) for tokens in self.units), strict=True) if self.units else ()
        kept = [sum(counts) for counts in stages] or [0] * len(widths)
        pruned = (self.text + count for count, width in zip(kept, widths, strict=True) for _ in range(width))
        return (*(self.rows,) * schedule.boundaries[0], *pruned)


def batch_lengths(
    samples: Sequence[SampleSize], schedule: Schedule, num_layers: int, queries: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows of each decoder layer of a padded batch, unpruned and pruned.

    Args:
        samples: of the batch.
        schedule: what prunes.
        num_layers: decoder layers L.
        queries: rows of the unpruned forward, padding included.

    Returns:
        Each [L]. After a stage every sample is padded to the longest one, so that a batch is as long as that one.
    """
    first = schedule.boundaries[0]
    longest = [max(rows) for rows in zip(*(one.lengths(schedule, num_layers) for one in samples), strict=True)]
    return (queries,) * num_layers, (*(queries,) * first, *longest[first:])
