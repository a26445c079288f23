"""Tables of ``vflowopt bench`` on whole answers, and on what the device did meanwhile."""

from collections.abc import Sequence

from vflowopt.benchmark import MODES, PARTS, Benchmark, BenchRow, Kernels, Mode
from vflowopt.benchmark.timing import Spread
from vflowopt.cli.bench_cells import NOT_MEASURED, Table, duration, gain
from vflowopt.figures import percent, seconds

AS_EAGER = "as eager"


def answers(measured: Benchmark) -> Table:
    """Time to the first token and to the last, a line for each mode and row."""
    lengths = answer_lengths([measured])
    rows = tuple(
        (
            row.name,
            one.mode,
            _prefill(measured, row, one.mode),
            *(duration(one.times[tokens].wall) if tokens in one.times else NOT_MEASURED for tokens in lengths),
            _rate(one.rate(measured.batch)),
            seconds(one.first_calls),
        )
        for mode in MODES
        for row in measured.rows
        if (one := row.generated(mode)) is not None
    )
    columns = ("budget", "mode", "prefill", *map(_whole, lengths), "tokens per second", "first calls")
    caption = (
        "Prefill: pixels to first logits, without generate; all else are whole calls of it, greedy. Medians "
        "(quartiles). Tokens per second: after the first, of all samples. First calls: of the longest answer, until "
        "all is compiled or recorded that later ones reuse; rows begin in turn, and later ones find some of it done."
    )
    return Table("Answers", columns, rows, caption)


def answer_gains(runs: Sequence[Benchmark]) -> Table:
    """Answers against unpruned ones of the same mode, a line for each run, mode and strategy."""
    lengths = answer_lengths(runs)
    rows = tuple(
        (
            f"{run.unpruned.tokens[0]:,}",
            str(run.batch),
            mode,
            row.name,
            gain(run.prefill_speedups(row, mode)) if run.prefill_in(row, mode) else AS_EAGER,
            *(gain(run.generation_speedups(row, mode, tokens)) for tokens in lengths),
        )
        for run in runs
        for mode in MODES
        for row in run.rows[1:]
        if row.generated(mode) is not None
    )
    columns = ("visual tokens", "batch", "mode", "budget", "prefill", *map(_whole, lengths))
    caption = "Unpruned over pruned, both in the same mode: medians (quartiles) of the ratios of single rounds."
    return Table("Answers: gains over unpruned", columns, rows, caption)


def device(measured: Benchmark) -> Table:
    """Kernels beside the clock on the wall."""
    rows: list[tuple[str, ...]] = []
    for row in measured.rows:
        rows += [
            _device(row, part, row.times[part].wall.median, row.kernels[part])
            for part in PARTS
            if part in row.kernels and part in row.times
        ]
        for one in row.generation:
            if one.prefill is not None and one.prefill_kernels is not None:
                rows.append(_device(row, f"prefill, {one.mode}", one.prefill.wall.median, one.prefill_kernels))
            if one.kernels is not None:
                rows.append(_device(row, f"{_whole(1)}, {one.mode}", one.times[1].wall.median, one.kernels))
    caption = (
        "Wall clock: median of the rounds. Kernels, from a run of its own under torch's profiler: the sum of their "
        "durations, how many ran, and the calls by which the host launched them (a recorded graph is one). Idle: the "
        "share of the wall clock in which neither a kernel nor a copy ran."
    )
    columns = ("budget", "part", "wall clock", "kernel time", "kernels", "launches", "idle")
    return Table("What the device did", columns, tuple(rows), caption)


def answer_lengths(runs: Sequence[Benchmark]) -> list[int]:
    """Numbers of tokens that were generated in any run, ascending."""
    return sorted({tokens for run in runs for row in run.rows for one in row.generation for tokens in one.times})


def _prefill(measured: Benchmark, row: BenchRow, mode: Mode) -> str:
    found = measured.prefill_in(row, mode)
    if found is not None:
        return duration(found.wall)
    return NOT_MEASURED if mode == "eager" else AS_EAGER


def _whole(tokens: int) -> str:
    return "first token" if tokens == 1 else f"{tokens:,} tokens"


def _device(row: BenchRow, part: str, wall: float, kernels: Kernels) -> tuple[str, ...]:
    return (
        row.name,
        part,
        seconds(wall),
        seconds(kernels.seconds),
        f"{kernels.count:,}",
        NOT_MEASURED if kernels.launches is None else f"{kernels.launches:,}",
        percent(kernels.idle(wall), 0),
    )


def _rate(spread: Spread | None) -> str:
    return NOT_MEASURED if spread is None else f"{spread.median:,.1f} ({spread.low:,.1f} - {spread.high:,.1f})"
