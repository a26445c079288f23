"""What the last prefill did, in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass

from vflowopt.figures import percent, seconds


@dataclass(frozen=True)
class BreakEven:
    """What a forward is expected to take.

    Attributes:
        unpruned_seconds: if nothing is pruned.
        pruned_seconds: if the strategy prunes, its own work included.
    """

    unpruned_seconds: float
    pruned_seconds: float

    @property
    def pays(self) -> bool:
        """Whether pruning is expected to be faster."""
        return self.pruned_seconds < self.unpruned_seconds

    def __str__(self) -> str:
        decision = "pruned" if self.pays else "left alone"
        return (
            f"guard: {decision}; expected {seconds(self.pruned_seconds)} with pruning, "
            f"{seconds(self.unpruned_seconds)} without"
        )


@dataclass(frozen=True)
class UnitReport:
    """One image or video.

    Attributes:
        sample: index in the batch.
        tokens: visual tokens before pruning, N.
        structural: how many of them are structural.
        counts: visual tokens after each stage.
        retention: achieved average retention (paper Eq. 5) of the exact counts.
        details: what the scorer reports, for example the number of calibration patches per view.
    """

    sample: int
    tokens: int
    structural: int
    counts: tuple[int, ...]
    retention: float
    details: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class PruningReport:
    """One prefill.

    Attributes:
        boundaries: decoder layers before which the stages prune.
        num_layers: decoder layers L.
        units: one entry per image or video, in prompt order.
        sequence_lengths: rows that each decoder layer processes, padding included.
        full_length: rows that an unpruned layer processes.
        kv_cache_bytes: keys and values that this prefill leaves in the cache, all layers.
        kv_cache_bytes_unpruned: the same without pruning.
        state_bytes: what recurrent layers hold besides in the cache, the same without pruning; 0 if there are none.
        guard: what the guard expected of this prefill, and so decided; ``None`` without one.
    """

    boundaries: tuple[int, ...]
    num_layers: int
    units: tuple[UnitReport, ...]
    sequence_lengths: tuple[int, ...]
    full_length: int
    kv_cache_bytes: int
    kv_cache_bytes_unpruned: int
    guard: BreakEven | None = None
    state_bytes: int = 0

    @property
    def retention(self) -> float:
        """Achieved average retention over all visual tokens of the prefill; 1 where there are none."""
        total = sum(unit.tokens for unit in self.units)
        return sum(unit.retention * unit.tokens for unit in self.units) / total if total else 1.0

    def __repr__(self) -> str:
        """All units together, on one line."""
        return f"PruningReport({self._summary}, units: {len(self.units)})"

    @property
    def _summary(self) -> str:
        return (
            f"average retention {percent(self.retention, 2)}, KV cache {self.kv_cache_bytes:,} of "
            f"{self.kv_cache_bytes_unpruned:,} bytes"
        )

    def __str__(self) -> str:
        lines = [
            self._summary,
            *([f"recurrent states {self.state_bytes:,} bytes, pruned or not"] if self.state_bytes else []),
            *([] if self.guard is None else [str(self.guard)]),
        ]
        for index, unit in enumerate(self.units):
            stages = ", ".join(f"{n} from layer {b}" for n, b in zip(unit.counts, self.boundaries, strict=True))
            lines.append(f"unit {index} (sample {unit.sample}): {unit.tokens} visual tokens -> {stages}")
        return "\n".join(lines)
