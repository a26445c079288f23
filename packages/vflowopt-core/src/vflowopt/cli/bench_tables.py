"""The tables of ``vflowopt bench``, as text: for the terminal and for Markdown alike."""

from collections.abc import Callable, Sequence
from itertools import groupby

from vflowopt.benchmark import (
    PARTS,
    Benchmark,
    BenchRow,
    Growth,
    GrowthPoint,
    GrowthSeries,
    Memory,
    Part,
    Phase,
    phases,
)
from vflowopt.cli.bench_answers import answer_gains, answers, device
from vflowopt.cli.bench_cells import NOT_MEASURED, Table, duration, gain
from vflowopt.figures import flops as flops_text
from vflowopt.figures import percent, ratio, seconds, size, tokens


def tables(measured: Benchmark) -> list[Table]:
    """All tables of one run; those without a row are left out."""
    made = [
        retained(measured),
        times(measured),
        gains(measured),
        answers(measured),
        answer_gains([measured]),
        *where(measured),
        device(measured),
        flops(measured),
        caches(measured),
    ]
    return [table for table in made if table.rows]


def retained(measured: Benchmark) -> Table:
    """What each strategy leaves."""
    rows = []
    for row in measured.rows:
        needed = _added(row.memory.get("end-to-end prefill"))
        rows.append((row.name, percent(row.retention), tokens(row.tokens), size(row.kv_cache_bytes), needed))
    columns = ("budget", "retention", "visual tokens", "KV cache", "prefill needs")
    caption = (
        "Visual tokens: of one sample, before pruning > after each stage. The end-to-end prefill needs, at its peak "
        f"and beside {size(measured.weights)} of weights: {measured.memory_source or NOT_MEASURED}."
    )
    return Table("What is retained", columns, tuple(rows), caption)


def times(measured: Benchmark) -> Table:
    """Every part, a column for each strategy."""
    # The unpruned model takes no entropy: its time tells what a strategy that does would add, to no table.
    pruned = measured.rows[1:]
    shown: list[Part] = [
        part for part in PARTS if any(part in row.times for row in (pruned if part == "entropy" else measured.rows))
    ]
    lines = [(part, *(_time(measured, row, part) for row in measured.rows)) for part in shown]
    wholes = [row.times.get("end-to-end prefill") for row in measured.rows]
    if any(wholes):
        cells = (NOT_MEASURED if whole is None else duration(whole.cpu) for whole in wholes)
        lines.append(("CPU time, end to end", *cells))
    caption = "Medians (quartiles). Gathers are part of the LM prefill, and all but decoding of the end-to-end prefill."
    return Table("Times", ("part", *(row.name for row in measured.rows)), tuple(lines), caption)


def gains(measured: Benchmark) -> Table:
    """Figures against unpruned, a column for each strategy."""
    pruned = measured.rows[1:]
    figures: dict[str, Callable[[BenchRow], str]] = {
        "LM FLOPs": lambda row: ratio(measured.flops_ratio(row)),
        "LM prefill": lambda row: _speedup(measured, row, "LM prefill"),
        "of the FLOPs ratio": lambda row: _reached(measured, row, cpu=False),
        "of the FLOPs ratio, by CPU time": lambda row: _reached(measured, row, cpu=True),
        "end-to-end prefill": lambda row: _speedup(measured, row, "end-to-end prefill"),
        "decode per token": lambda row: _speedup(measured, row, "decode per token"),
        "KV cache": lambda row: ratio(measured.unpruned.kv_cache_bytes / row.kv_cache_bytes),
        "importance / vision tower": lambda row: _importance(measured, row),
    }
    rows = tuple((name, *map(figure, pruned)) for name, figure in figures.items()) if pruned else ()
    caption = (
        "Unpruned over pruned: medians (quartiles) of the ratios of single rounds. LM FLOPs: linear layers and causal "
        "attention of the decoder's prefill, counted from the rows of each layer. Importance: attention capture and "
        "entropy."
    )
    return Table("Gains over unpruned", ("figure", *(row.name for row in pruned)), rows, caption)


def where(measured: Benchmark) -> list[Table]:
    """Where the time goes: unpruned, and at the smallest retention."""
    chosen = dict.fromkeys([measured.unpruned.name, measured.leanest.name])
    return [_where(measured, row) for row in measured.rows if row.name in chosen]


def _where(measured: Benchmark, row: BenchRow) -> Table:
    caption = "Limit, computed: FLOPs and bytes that cannot be avoided, counted, at the rates that "
    if measured.rates:
        flops, moved = measured.rates.flops / 1e9, measured.rates.moved / 1e9
        caption += f"a large matrix product ({flops:,.0f} GFLOP/s) and a copy ({moved:,.1f} GB/s) reached meanwhile."
    else:
        caption = "Limits were not measured."
    caption += f" Memory: {measured.memory_source or NOT_MEASURED}; what the part added to it."
    columns = ("part", "time", "share", "CPU time", "FLOPs", "bytes", "limit", "time / limit", "memory")
    return Table(
        f"Where the end-to-end prefill goes: {row.name}",
        columns,
        tuple(_phase(one) for one in phases(measured, row)),
        caption,
    )


def _phase(one: Phase) -> tuple[str, ...]:
    name = f"  of which {one.name}" if one.within else one.name
    return (
        name,
        seconds(one.seconds),
        percent(one.share),
        seconds(one.cpu),
        NOT_MEASURED if one.flops is None else flops_text(one.flops),
        NOT_MEASURED if one.moved is None else size(one.moved),
        NOT_MEASURED if one.limit is None else seconds(one.limit),
        NOT_MEASURED if not one.limit else ratio(one.seconds / one.limit),
        _added(one.memory),
    )


def flops(measured: Benchmark) -> Table:
    """FLOPs from the rows of each layer beside those that torch counted in a real prefill."""
    rows = tuple(
        (
            row.name,
            f"{row.flops:,}",
            f"{row.flops_all_pairs:,}",
            f"{row.flops_by_torch:,}",
            percent(row.flops_by_torch / row.flops_all_pairs - 1, 2),
        )
        for row in measured.rows
        if row.flops_by_torch is not None
    )
    columns = ("budget", "causal", "all pairs", "by torch", "difference")
    caption = (
        "Causal: of causal attention, as the ratios take it. torch's counter, in the layers, takes all pairs of "
        "positions; where it agrees, the formula behind the ratios is right."
    )
    return Table("FLOPs of the LM prefill, cross-checked", columns, rows, caption)


def caches(measured: Benchmark) -> Table:
    """Keys and values per layer, and beside them what recurrent layers hold."""
    rows = tuple((row.name, _by_layer(row), size(row.kv_cache_bytes)) for row in measured.rows if row.kv_cache_by_layer)
    states = measured.unpruned.state_bytes
    caption = f"Recurrent layers hold {size(states)} of states besides, pruned or not." if states else ""
    return Table("KV cache per layer, after the prefill", ("budget", "each of the layers", "all layers"), rows, caption)


def sweep(runs: Sequence[Benchmark]) -> Table:
    """One line per run and strategy."""
    rows = [
        (
            f"{run.unpruned.tokens[0]:,}",
            f"{run.text_tokens:,}",
            str(run.batch),
            row.name,
            ratio(run.flops_ratio(row)),
            _speedup(run, row, "LM prefill"),
            _speedup(run, row, "end-to-end prefill"),
            _speedup(run, row, "decode per token"),
            ratio(run.unpruned.kv_cache_bytes / row.kv_cache_bytes),
        )
        for run in runs
        for row in run.rows[1:]
    ]
    columns = (
        "visual tokens", "text tokens", "batch", "budget", "LM FLOPs", "LM prefill", "end-to-end prefill",
        "decode per token", "KV cache",
    )  # fmt: skip
    return Table(
        "Gains over unpruned, all runs", columns, tuple(rows), "Medians (quartiles) of the ratios of single rounds."
    )


def sweeps(runs: Sequence[Benchmark]) -> list[Table]:
    """What all runs gain, on prefills and on answers if there are any."""
    return [table for table in (sweep(runs), answer_gains(runs)) if table.rows]


def growth(grown: Growth) -> list[Table]:
    """One table per task."""
    return [
        Table(
            f"{series.name}: {_law(series)}",
            ("tokens", "time", "CPU time", "works on", "memory added"),
            tuple(_size(point) for point in series.points),
            f"Exponents: least squares in logarithms. Sizes expected to take more than {grown.limit:g} s were not "
            f"measured. Memory: {grown.memory_source or NOT_MEASURED}.",
        )
        for series in grown.series
    ]


def _size(point: GrowthPoint) -> tuple[str, ...]:
    if point.time is None:
        return (f"{point.tokens:,}", NOT_MEASURED, NOT_MEASURED, size(point.held), NOT_MEASURED)
    cpu = seconds(point.time.cpu.median)
    return (f"{point.tokens:,}", duration(point.time.wall), cpu, size(point.held), _added(point.memory))


def _law(series: GrowthSeries) -> str:
    overall, tail, cpu = series.exponent(), series.exponent(last=3), series.exponent(last=3, cpu=True)
    if overall is None or tail is None or cpu is None:
        return "too few sizes for an exponent"
    return f"time ~ tokens^{overall:.2f}; of the three largest sizes ^{tail:.2f}, CPU time ^{cpu:.2f}"


def _time(measured: Benchmark, row: BenchRow, part: Part) -> str:
    """A time, or why there is none."""
    if row is measured.unpruned and (part not in row.times or part == "entropy"):
        return "none"
    if part in row.times:
        return duration(row.times[part].wall)
    if part == "vision tower":
        return "as unpruned"
    return "not used" if part == "entropy" else NOT_MEASURED


def _speedup(measured: Benchmark, row: BenchRow, part: Part) -> str:
    return gain(measured.speedups(row, part))


def _reached(measured: Benchmark, row: BenchRow, *, cpu: bool) -> str:
    """How much of the FLOPs ratio the LM prefill makes true."""
    spread = measured.speedups(row, "LM prefill", cpu=cpu)
    return NOT_MEASURED if spread is None else percent(spread.median / measured.flops_ratio(row), 0)


def _importance(measured: Benchmark, row: BenchRow) -> str:
    share = measured.importance_share(row)
    return NOT_MEASURED if share is None else percent(share, 2)


def _added(memory: Memory | None) -> str:
    return NOT_MEASURED if memory is None else size(memory.added)


def _by_layer(row: BenchRow) -> str:
    """Neighbouring layers with caches of one size together: ``0-8: 1.2 MiB, 9-17: ...``."""
    texts = []
    for held, group in groupby(enumerate(row.kv_cache_by_layer), key=lambda entry: entry[1]):
        layers = [layer for layer, _ in group]
        name = f"{layers[0]}" if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
        texts.append(f"{name}: {size(held)}")
    return ", ".join(texts)
