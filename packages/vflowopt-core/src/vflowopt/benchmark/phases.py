"""Where the time of a prefill goes, part by part, and how far each is from what the machine could do."""

from dataclasses import dataclass

from vflowopt.benchmark.result import IN_PREFILL, Benchmark, BenchRow, Memory, Part

REST = "rest (difference)"
"""What the end-to-end prefill takes beyond its parts: embedding, projector, head, the model's own glue."""


@dataclass(frozen=True)
class Phase:
    """A part of an end-to-end prefill.

    Attributes:
        name: of the part, or :data:`REST`; the last one is the whole.
        seconds: median.
        share: of the end-to-end prefill.
        cpu: median of the process's CPU time, in seconds.
        flops: that it has to do, if counted.
        moved: bytes that it has to move, if counted.
        memory: if measured.
        limit: seconds below which the machine cannot do it, if its rates were measured.
        within: the phase contains this one; it does not count in the sum.
    """

    name: str
    seconds: float
    share: float
    cpu: float
    flops: int | None = None
    moved: int | None = None
    memory: Memory | None = None
    limit: float | None = None
    within: str | None = None


def phases(measured: Benchmark, row: BenchRow) -> tuple[Phase, ...]:
    """Phases of a row's prefill in order, then the rest and the whole; none if the whole was not timed."""
    whole = row.times.get("end-to-end prefill")
    if whole is None:
        return ()
    total = whole.wall.median

    def phase(part: Part, within: str | None = None) -> Phase | None:
        timing = measured.time(row, part)
        if timing is None:
            return None
        source = row if part in row.times else measured.unpruned
        work, memory = source.work.get(part), source.memory.get(part)
        limit = measured.rates.limit(work) if measured.rates and work else None
        flops, moved = (work.flops, work.moved) if work else (None, None)
        taken, cpu = timing.wall.median, timing.cpu.median
        return Phase(part, taken, taken / total, cpu, flops, moved, memory, limit, within)

    # Unpruned, entropy is what it would cost: it is no part of that prefill.
    used = [part for part in IN_PREFILL if row is not measured.unpruned or part != "entropy"]
    parts = [found for part in used if (found := phase(part))]
    rest, all_of_it = total - sum(part.seconds for part in parts), phase("end-to-end prefill")
    assert all_of_it is not None
    cpu = whole.cpu.median - sum(part.cpu for part in parts)
    left = None if all_of_it.flops is None else all_of_it.flops - sum(part.flops or 0 for part in parts)
    inside = [found for found in [phase("gathers", within="LM prefill")] if found]
    return (*parts, *inside, Phase(REST, rest, rest / total, cpu, left), all_of_it)
