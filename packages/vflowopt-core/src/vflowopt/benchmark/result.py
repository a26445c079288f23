"""What a benchmark of strategies measures, and what it returns; adapters do the measuring."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from vflowopt.benchmark.generation import Generation, Mode
from vflowopt.benchmark.kernels import Kernels
from vflowopt.benchmark.timing import Spread, Timing

Part = Literal[
    "vision tower",
    "attention capture",
    "entropy",
    "planning",
    "gathers",
    "LM prefill",
    "end-to-end prefill",
    "decode per token",
]
PARTS: tuple[Part, ...] = get_args(Part)
"""``vision tower``: the tower alone. ``attention capture``: importance of all visual tokens from what the tower's
attention left behind, entropy given. ``entropy``: entropy of all patches. ``planning``: counts, selection and merging
weights. ``gathers``: what pruning adds inside the decoder: merging, gathering rows, positions and masks at every stage,
and the hooks, around layers that compute nothing. ``LM prefill``: the decoder with a KV cache, gathers included.
``end-to-end prefill``: pixels to first logits, all of the above included. ``decode per token``: one step with the cache
that this prefill left."""

IN_PREFILL: tuple[Part, ...] = ("vision tower", "attention capture", "entropy", "planning", "LM prefill")
"""Parts that follow each other in an end-to-end prefill and do not contain each other."""

UNPRUNED = "unpruned"


@dataclass(frozen=True)
class Work:
    """What a part has to do at least, counted on one real run.

    Attributes:
        flops: of matrix products, convolutions and attention, two per multiply-add, by torch's counter; of causal
            attention in the decoder only the pairs that are needed.
        moved: bytes of every tensor that was there before and is read, once, and of every tensor that is left, once.
    """

    flops: int
    moved: int


@dataclass(frozen=True)
class Memory:
    """Memory of the process's device around one run of a part, in bytes.

    Attributes:
        before: in use when it began, by the benchmark itself, too.
        peak: at most in use meanwhile.
    """

    before: int
    peak: int

    @property
    def added(self) -> int:
        """What the part needed on top."""
        return self.peak - self.before


@dataclass(frozen=True)
class Rates:
    """What the machine reached in the same rounds, as a yardstick for physical limits.

    Attributes:
        flops: per second, in a large square matrix product of the model's dtype.
        moved: bytes per second, read and written, in a large copy.
    """

    flops: float
    moved: float

    def limit(self, work: Work) -> float:
        """Seconds below which ``work`` cannot be done at these rates."""
        return max(work.flops / self.flops, work.moved / self.moved)


@dataclass(frozen=True)
class BenchRow:
    """One strategy, or the unpruned model.

    Attributes:
        name: of the strategy, or :data:`UNPRUNED`.
        retention: achieved average retention.
        tokens: visual tokens of one sample before pruning and after each stage, over all its units.
        lengths: rows that each decoder layer processes, of one sample.
        flops: of the decoder's prefill: linear layers and causal attention, exactly, from ``lengths``; of the batch.
        flops_all_pairs: the same with every pair of positions, as torch counts attention.
        kv_cache_bytes: keys and values after the prefill, of the batch.
        times: by part; a part that does not apply or was not measured is absent.
        kv_cache_by_layer: keys and values in each layer of the cache that a prefill left, measured; of the batch.
        state_bytes: states of recurrent layers, which no pruning changes; of the batch.
        flops_by_torch: what torch's counter saw in the decoder's layers during one prefill; ``None`` if not counted.
        work: by part, if counted.
        memory: by part, if measured.
        kernels: what an accelerator did, by part, if measured.
        generation: whole answers, by mode, if measured.
    """

    name: str
    retention: float
    tokens: tuple[int, ...]
    lengths: tuple[int, ...]
    flops: int
    flops_all_pairs: int
    kv_cache_bytes: int
    times: Mapping[Part, Timing]
    kv_cache_by_layer: tuple[int, ...] = ()
    state_bytes: int = 0
    flops_by_torch: int | None = None
    work: Mapping[Part, Work] = field(default_factory=dict)
    memory: Mapping[Part, Memory] = field(default_factory=dict)
    kernels: Mapping[Part, Kernels] = field(default_factory=dict)
    generation: tuple[Generation, ...] = ()

    def generated(self, mode: Mode) -> Generation | None:
        """Whole answers in a mode, if measured."""
        return next((one for one in self.generation if one.mode == mode), None)


@dataclass(frozen=True)
class Benchmark:
    """All rows, measured in interleaved rounds of one process; the first is the unpruned model.

    Attributes:
        device: what it ran on, for example ``"CPU, 2 threads, float32"``.
        rows: unpruned first.
        batch: samples of the batch, all alike.
        text_tokens: of one sample.
        planning: time to plan ``planning_tokens`` tokens, if a layout for it was given.
        planning_tokens: N of that layout.
        rates: yardstick, if details were asked for.
        memory_source: how peak memory was measured; empty if it was not.
        weights: bytes of the model's weights.
    """

    device: str
    rows: tuple[BenchRow, ...]
    batch: int = 1
    text_tokens: int = 0
    planning: Timing | None = None
    planning_tokens: int = 0
    rates: Rates | None = None
    memory_source: str = ""
    weights: int = 0

    @property
    def unpruned(self) -> BenchRow:
        """The row that all others are compared with."""
        return self.rows[0]

    @property
    def leanest(self) -> BenchRow:
        """The row with the smallest retention."""
        return min(self.rows, key=lambda row: row.retention)

    def flops_ratio(self, row: BenchRow) -> float:
        """How many times fewer FLOPs the decoder's prefill takes."""
        return self.unpruned.flops / row.flops

    def speedup(self, row: BenchRow, part: Part, *, cpu: bool = False) -> float | None:
        """How many times faster a part is than unpruned, by medians; ``None`` if either was not measured.

        With ``cpu``, by the process's CPU time instead of the clock, which other processes disturb less.
        """
        if part not in row.times or part not in self.unpruned.times:
            return None
        full, own = self.unpruned.times[part], row.times[part]
        return full.cpu.median / own.cpu.median if cpu else full.wall.median / own.wall.median

    def speedups(self, row: BenchRow, part: Part, *, cpu: bool = False) -> Spread | None:
        """The same round by round, which tells how certain it is."""
        if part not in row.times or part not in self.unpruned.times:
            return None
        full, own = self.unpruned.times[part], row.times[part]
        return full.cpu.over(own.cpu) if cpu else full.wall.over(own.wall)

    def generation_speedups(self, row: BenchRow, mode: Mode, tokens: int) -> Spread | None:
        """How many times faster an answer of so many tokens is than unpruned in the same mode, round by round."""
        full, own = self.unpruned.generated(mode), row.generated(mode)
        if full is None or own is None or tokens not in full.times or tokens not in own.times:
            return None
        return full.times[tokens].wall.over(own.times[tokens].wall)

    def prefill_in(self, row: BenchRow, mode: Mode) -> Timing | None:
        """Pixels to first logits in a mode that changes prefills, or in the eager one; ``None`` if not measured."""
        found = row.generated(mode)
        return row.times.get("end-to-end prefill") if mode == "eager" or found is None else found.prefill

    def prefill_speedups(self, row: BenchRow, mode: Mode) -> Spread | None:
        """How many times faster pixels become first logits than unpruned in the same mode, round by round."""
        full, own = self.prefill_in(self.unpruned, mode), self.prefill_in(row, mode)
        return None if full is None or own is None else full.wall.over(own.wall)

    def time(self, row: BenchRow, part: Part) -> Timing | None:
        """Time of a part of a row; the vision tower's, which no strategy changes, is measured once for all rows."""
        return row.times.get(part) or (self.unpruned.times.get(part) if part == "vision tower" else None)

    def importance_share(self, row: BenchRow) -> float | None:
        """Time of attention capture and entropy as a fraction of the tower's, which ran on the same images."""
        tower, capture = self.unpruned.times.get("vision tower"), row.times.get("attention capture")
        if tower is None or capture is None:
            return None
        entropy = row.times.get("entropy")
        return (capture.wall.median + (entropy.wall.median if entropy else 0.0)) / tower.wall.median
