"""What a benchmark of strategies measures, and what it returns; adapters do the measuring."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vflowopt.layout import TokenLayout
from vflowopt.timing import Timing

Part = Literal["vision tower", "importance", "planning", "LM prefill", "end-to-end prefill", "decode per token"]
PARTS: tuple[Part, ...] = get_args(Part)
"""``vision tower``: the tower alone. ``importance``: scores of all units, from attention to visual tokens.
``planning``: counts, selection and merging weights. ``LM prefill``: the decoder with a KV cache, hooks and merging
included. ``end-to-end prefill``: pixels to first logits, all of the above included. ``decode per token``: one step with
the cache that this prefill left."""

UNPRUNED = "unpruned"


@dataclass(frozen=True)
class BenchRow:
    """One strategy, or the unpruned model.

    Attributes:
        name: of the strategy, or :data:`UNPRUNED`.
        retention: achieved average retention.
        tokens: visual tokens before pruning and after each stage, over all units.
        lengths: rows that each decoder layer processes.
        flops: of the decoder's prefill: linear layers and causal attention, exactly, from ``lengths``.
        kv_cache_bytes: keys and values after the prefill.
        times: by part; a part that does not apply is absent.
    """

    name: str
    retention: float
    tokens: tuple[int, ...]
    lengths: tuple[int, ...]
    flops: int
    kv_cache_bytes: int
    times: Mapping[Part, Timing]


@dataclass(frozen=True)
class Benchmark:
    """All rows, measured in interleaved rounds of one process; the first is the unpruned model.

    Attributes:
        device: what it ran on, for example ``"cpu, 2 threads, torch.float32"``.
        rows: unpruned first.
        planning: time to plan ``planning_tokens`` tokens, if a layout for it was given.
        planning_tokens: N of that layout.
    """

    device: str
    rows: tuple[BenchRow, ...]
    planning: Timing | None = None
    planning_tokens: int = 0

    @property
    def unpruned(self) -> BenchRow:
        """The row that all others are compared with."""
        return self.rows[0]

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

    def importance_share(self, row: BenchRow) -> float | None:
        """Time of the importance pass as a fraction of the vision tower's, which ran on the same images."""
        tower = self.unpruned.times.get("vision tower")
        importance = row.times.get("importance")
        return importance.wall.median / tower.wall.median if tower and importance else None


@dataclass(frozen=True)
class BenchShape:
    """A model with random weights whose speed is worth knowing, with an input for it.

    Attributes:
        name: what ``vflowopt bench --shape`` calls it.
        summary: one line.
        parts: what to measure.
        build: ``build(text_tokens)`` returns the model and inputs of batch size 1.
        planning_layout: a layout whose planning is timed besides.
    """

    name: str
    summary: str
    parts: tuple[Part, ...]
    build: Callable[[int], tuple[Any, Mapping[str, Any]]]
    planning_layout: TokenLayout | None = None
