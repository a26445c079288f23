"""``vflowopt bench``: FLOPs, latency and KV cache per budget, against the unpruned model."""

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vflowopt.adapter import Adapter, Inputs
from vflowopt.benchmark import PARTS, Benchmark, BenchRow, BenchShape, Part
from vflowopt.cli.console import notes, percent, print_json, results, seconds, size, steps, table, tokens
from vflowopt.cli.data import Question
from vflowopt.cli.media import open_image
from vflowopt.cli.models import DeviceOption, DtypeOption, choose
from vflowopt.cli.strategies import HELP as STRATEGY_HELP
from vflowopt.cli.strategies import read_strategy
from vflowopt.errors import InputError, UnsupportedModelError
from vflowopt.plugins import import_adapter, installed
from vflowopt.strategy import Strategy

EXAMPLES = """
[b]Examples[/b]

vflowopt bench --shape mid

vflowopt bench -m reference --budgets 0.5,0.25 -s fastv@0.5
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench", epilog=EXAMPLES)(bench)


def bench(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Directory, hub id or named model.")] = None,
    shape: Annotated[str | None, typer.Option(help="A random-weight model instead: mid, siglip-so400m.")] = None,
    image: Annotated[
        Path | None, typer.Option("--image", "-i", help="Image for --model; named models bring one.")
    ] = None,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Prompt for --image.")] = "Describe the image.",
    budgets: Annotated[str, typer.Option(help="Average retentions, separated by commas.")] = "0.5,0.25,0.1",
    strategy: Annotated[
        list[str] | None, typer.Option("--strategy", "-s", help="Further strategies: " + STRATEGY_HELP)
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds, after one that warms up.")] = 7,
    text_tokens: Annotated[int, typer.Option(min=1, help="Text tokens of the prompt of a --shape.")] = 32,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time every part of a pruned prefill, and decoding, against the unpruned model.

    Rounds are interleaved in one process; medians with quartiles are shown. The strategy of a budget is the published
    one of LLaVA-OneVision-7B, its stages and budget fitted to the model.
    """
    wanted, further = _budgets(budgets), {text: read_strategy(text) for text in strategy or ()}
    if (model is None) == (shape is None):
        raise InputError(f"give either --model or --shape; shapes: {', '.join(sorted(_shapes())) or 'none installed'}")
    adapter, loaded, inputs, kind = (
        _from_shape(shape, text_tokens) if shape else _from_model(model or "", image, prompt, device, dtype)
    )
    layers = adapter.num_layers(loaded)
    strategies = {percent(budget, 0): fitted_strategy(budget, layers) for budget in wanted}
    strategies |= {text: strategy_for(layers) for text, strategy_for in further.items()}
    with steps() as bar:
        task = bar.add_task("measuring")
        measured = adapter.benchmark(
            loaded,
            inputs,
            strategies,
            parts=kind.parts if kind else PARTS,
            rounds=rounds,
            planning_layout=kind.planning_layout if kind else None,
            on_task=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if as_json:
        print_json(asdict(measured))
        return
    notes().print(f"{shape or model}: {kind.summary if kind else ''}", highlight=False)
    _print(measured, rounds)


def fitted_strategy(budget: float, num_layers: int) -> Strategy:
    """The published strategy of the nearest budget, with its stages and split fitted to a decoder and budget.

    Raises:
        BudgetError, StrategyError: the budget cannot be met.
    """
    from vflowopt.search import SearchSpace

    nearest = min((10, 25, 50), key=lambda published: abs(published / 100 - budget))
    return SearchSpace.of(budget, num_layers).rescale(Strategy.preset(f"llava-onevision-7b/{nearest}"))


def _budgets(text: str) -> list[float]:
    from vflowopt.schedule import check_budget

    try:
        return [check_budget(float(part)) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"--budgets takes numbers in (0, 1] separated by commas, got {text!r}: {error}") from error


def _shapes() -> dict[str, tuple[Adapter, BenchShape]]:
    """Shapes of all adapters that can be imported."""
    found: dict[str, tuple[Adapter, BenchShape]] = {}
    for entry in installed().adapters:
        with suppress(UnsupportedModelError):  # `vflowopt adapters` tells; the shapes of the others are not to suffer
            adapter = import_adapter(entry)
            found |= {shape.name: (adapter, shape) for shape in adapter.shapes()}
    return found


def _from_shape(name: str, text_tokens: int) -> tuple[Adapter, Any, Inputs, BenchShape | None]:
    known = _shapes()
    if name not in known:
        raise InputError(f"no shape is called {name!r}; there are: {', '.join(sorted(known)) or 'none installed'}")
    adapter, shape = known[name]
    with notes().status(f"building {name}"):
        model, inputs = shape.build(text_tokens)
    return adapter, model, inputs, shape


def _from_model(
    name: str, image: Path | None, prompt: str, device: str | None, dtype: str
) -> tuple[Adapter, Any, Inputs, BenchShape | None]:
    chosen = choose(name)
    if image is not None:
        question = Question((open_image(image),), prompt)
    elif chosen.named and chosen.named.examples:
        examples = chosen.named.examples("test", 30, 0)
        largest = max(examples, key=lambda example: example.images[0].width * example.images[0].height)
        question = Question(largest.images, largest.question)
    else:
        raise InputError(f"{name!r} brings no images of its own: give --image")
    loaded = chosen.load(device, dtype)
    return loaded.adapter, loaded.model, question.prepare(loaded), None


def _print(measured: Benchmark, rounds: int) -> None:
    console = results()
    shown: list[Part] = [part for part in PARTS if any(part in row.times for row in measured.rows)]
    rows = [_row(row, shown) for row in measured.rows]
    columns = ("budget", "retention", "visual tokens", *shown, "KV cache", "CPU s, end to end")
    title = f"{measured.device}; medians of {rounds} interleaved rounds (quartiles)"
    console.print(table(title, columns, rows))
    gains = [_gains(measured, row) for row in measured.rows[1:]]
    if gains:
        caption = (
            "FLOPs: linear layers and causal attention of the decoder's prefill, counted from the rows of each layer."
        )
        if "LM prefill" not in shown:
            caption = ""
        cells = [(row.name, *own.values()) for row, own in zip(measured.rows[1:], gains, strict=True)]
        console.print(table("Gains over unpruned", ("budget", *gains[0]), cells, caption))
    if measured.planning:
        spread = measured.planning.wall
        between = f"{seconds(spread.low)} to {seconds(spread.high)}"
        text = f"planning {measured.planning_tokens:,} tokens: {seconds(spread.median)} ({between})"
        console.print(text, highlight=False)


def _gains(measured: Benchmark, row: BenchRow) -> dict[str, str]:
    """Figures against unpruned by column; what was not measured has none."""
    gains: dict[str, str] = {}
    parts: tuple[Part, ...] = ("LM prefill", "end-to-end prefill", "decode per token")
    for part in parts:
        speedup = measured.speedup(row, part)
        if speedup is not None:
            gains[part] = f"{speedup:.2f}x"
    prefill, cpu = measured.speedup(row, "LM prefill"), measured.speedup(row, "LM prefill", cpu=True)
    if prefill is not None and cpu is not None:
        flops = measured.flops_ratio(row)
        gains |= {"LM FLOPs": f"{flops:.2f}x", "LM prefill / FLOPs": percent(prefill / flops, 0)}
        gains |= {"by CPU time": percent(cpu / flops, 0)}
        gains |= {"KV cache": f"{measured.unpruned.kv_cache_bytes / row.kv_cache_bytes:.2f}x"}
    share = measured.importance_share(row)
    if share is not None:
        gains["importance / vision tower"] = percent(share, 2)
    return gains


def _row(row: BenchRow, shown: list[Part]) -> tuple[str, ...]:
    times = []
    for part in shown:
        timing = row.times.get(part)
        if timing is None:
            times.append("-")
            continue
        times.append(f"{seconds(timing.wall.median)}\n({seconds(timing.wall.low)} - {seconds(timing.wall.high)})")
    whole = row.times.get("end-to-end prefill")
    cpu = "-" if whole is None else f"{whole.cpu.median:.2f}"
    return (row.name, percent(row.retention), tokens(row.tokens), *times, size(row.kv_cache_bytes), cpu)
