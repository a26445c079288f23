"""What a search took against its floor: one pruned prefill per sample and evaluation, and nothing else."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchCost:
    """Seconds, summed over evaluations.

    Attributes:
        evaluations: how many were measured.
        decoder: in the decoder's pruned prefills: the floor. Of several processes that of the slowest.
        evaluating: in evaluations; the prefills are part of it.
        proposing: in choosing points.
    """

    evaluations: int
    decoder: float
    evaluating: float
    proposing: float

    @property
    def overhead(self) -> float:
        """What was spent beyond the floor, in parts of it."""
        return (self.evaluating + self.proposing) / self.decoder - 1.0 if self.decoder else 0.0

    def __str__(self) -> str:
        """One line for users."""
        per = 1.0 / self.evaluations
        return (
            f"{(self.evaluating + self.proposing) * per:.3g} s per evaluation: {self.decoder * per:.3g} s of prefills, "
            f"{(self.evaluating - self.decoder) * per:.2g} s of scoring and planning, {self.proposing * per:.2g} s to "
            f"choose it; {self.overhead:.0%} over the prefills alone"
        )
