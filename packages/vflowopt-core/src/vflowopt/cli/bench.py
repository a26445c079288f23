"""``vflowopt bench``: where the time of a prefill goes, and what pruning saves of it, against the unpruned model."""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, TypeVar, cast

import typer

from vflowopt.adapter import strategy_of
from vflowopt.benchmark import MODES, Benchmark, Growth, Mode
from vflowopt.budgets.cost import COST_FILE
from vflowopt.cli.bench_reports import claim_report, report, show, write
from vflowopt.cli.bench_subjects import Subject, from_model, from_shape, growing, shapes
from vflowopt.cli.calibrate import measure
from vflowopt.cli.console import JsonOption, notes, print_json, results, steps, working
from vflowopt.cli.help import Command
from vflowopt.cli.models import DeviceOption, DtypeOption
from vflowopt.cli.outputs import ForceOption, claim
from vflowopt.cli.strategies import STRATEGIES, FurtherStrategiesOption
from vflowopt.errors import InputError
from vflowopt.figures import percent
from vflowopt.strategies.reading import read_strategy
from vflowopt.strategies.strategy import Strategy

EXAMPLES = """
[b]Examples[/b]

vflowopt bench --shape mid

vflowopt bench -m reference --budgets 0.5,0.25 -s fastv@0.5 --out benched

vflowopt bench --shape mid --batch 1,8,32 --text-tokens 32,512 --out benched

vflowopt bench --shape llava-onevision-7b --generate 1,32,128 --modes eager,compiled --device cuda

vflowopt bench --growth
"""
GROWTH_SIZES = tuple(1024 * 2**doubling for doubling in range(7))
Number = TypeVar("Number", int, float)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench", cls=Command, epilog=EXAMPLES + STRATEGIES)(bench)


def bench(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Directory, hub id or named model.")] = None,
    shape: Annotated[
        str | None, typer.Option(help="A random-weight model instead; without --model and --shape, all are named.")
    ] = None,
    growth: Annotated[
        bool, typer.Option("--growth", help="Time planning and attention capture from 1k to 64k tokens instead.")
    ] = False,
    image: Annotated[
        Path | None, typer.Option("--image", "-i", metavar="FILE", help="Image for --model; named models bring one.")
    ] = None,
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", metavar="TEXT", help="Prompt for --image.")
    ] = "Describe the image.",
    budgets: Annotated[
        str, typer.Option(metavar="SHARES", help="Average retentions, separated by commas.")
    ] = "0.5,0.25,0.1",
    strategy: FurtherStrategiesOption = None,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Measured rounds, after one that warms up.")] = 7,
    visual_tokens: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="Visual tokens of a --shape, about; several separated by commas."),
    ] = None,
    text_tokens: Annotated[
        str | None, typer.Option(metavar="NUMBERS", help="Text tokens of the prompt; several separated by commas.")
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Samples of a batch; several separated by commas.")
    ] = "1",
    generate: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="Also time whole answers of so many tokens; several separated by commas."),
    ] = None,
    modes: Annotated[
        str,
        typer.Option(metavar="NAMES", help=f"How models run for --generate, separated by commas: {', '.join(MODES)}."),
    ] = "eager",
    limit: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Of --growth: leave out sizes that take longer for one run."),
    ] = 20.0,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also calibrate a cost model on the same model and inputs (see vflowopt calibrate)."
        ),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Directory for bench.json, bench.md and bench.png; made if it is not there."),
    ] = None,
    as_json: JsonOption = False,
    force: ForceOption = False,
) -> None:
    """Time every part of a pruned prefill, and decoding, against the unpruned model.

    Rounds are interleaved in one process; medians with quartiles are shown. Memory and work of each part come from runs
    of their own. The strategy of a budget is the published one of LLaVA-OneVision-7B, its stages and budget fitted to
    the model.
    """
    # Everything that can be refused without loading a model is refused first.
    wanted, further = _budgets(budgets), {text: read_strategy(text) for text in strategy or ()}
    visual: list[int | None] = [*_whole("--visual-tokens", visual_tokens)] or [None]
    text: list[int | None] = [*_whole("--text-tokens", text_tokens)] or [None]
    batches = _whole("--batch", batch)
    answers, ways = _whole("--generate", generate), _modes(modes)
    if ways != ["eager"] and not answers:
        raise InputError(f"--modes {modes} goes with --generate, for example --generate 1,32: other parts run eagerly")
    if device == "cpu" and (idle := [way for way in ways if way != "eager"]):
        raise InputError(f"--modes {idle[0]} is for accelerators: leave it out, or use --device cuda")
    if answers and growth:
        raise InputError("--generate goes with --model or --shape: --growth has no model that could answer")
    if [model is not None, shape is not None, growth].count(True) != 1:
        with working("importing adapters"):
            known = ", ".join(sorted(shapes())) or "none installed"
        raise InputError(f"give one of --model, --shape and --growth; shapes: {known}")
    if out is not None:
        claim_report(out, force)
    if calibrate is not None and growth:
        raise InputError("--calibrate goes with --model or --shape: --growth has no model to calibrate")
    claimed = None if calibrate is None else claim(calibrate, COST_FILE, force, image)
    if growth:
        made = report("growth", "planning and attention capture", grown=_growth(rounds, limit, device, dtype))
    else:
        subject = from_shape(shape, device, dtype) if shape else from_model(model or "", image, prompt, device, dtype)
        layers = subject.adapter.num_layers(subject.model)
        strategies = {percent(budget, 0): fitted_strategy(budget, layers) for budget in wanted}
        strategies |= {
            text: strategy_of(subject.adapter, subject.model, strategy_for) for text, strategy_for in further.items()
        }
        runs = [_run(subject, strategies, rounds, answers, ways, *sizes) for sizes in product(visual, text, batches)]
        made = report(subject.name, subject.summary, tuple(runs))
        if claimed is not None:
            inputs = [subject.inputs(*sizes) for sizes in product(visual, text)]
            cost = measure(
                subject.adapter,
                subject.model,
                inputs,
                [strategies[given] for given in further],
                rounds=rounds,
                processor=subject.processor,
                name=subject.name,
            )
            notes().print(f"wrote {claimed.write(cost.to_json())}", highlight=False)
    if out is not None:
        files = write(made, out, force=force)
        notes().print(f"wrote {', '.join(map(str, files.values()))}", highlight=False)
    if as_json:
        print_json(made.to_data())
    else:
        show(made, results())


def fitted_strategy(budget: float, num_layers: int) -> Strategy:
    """The published strategy of the nearest budget, with its stages and split fitted to a decoder and budget.

    Raises:
        BudgetError, StrategyError: the budget cannot be met.
    """
    from vflowopt.search import SearchSpace

    nearest = min((10, 25, 50), key=lambda published: abs(published / 100 - budget))
    return SearchSpace.of(budget, num_layers).rescale(Strategy.preset(f"llava-onevision-7b/{nearest}"))


def _run(
    subject: Subject,
    strategies: dict[str, Strategy],
    rounds: int,
    answers: Sequence[int],
    modes: Sequence[Mode],
    visual_tokens: int | None,
    text_tokens: int | None,
    batch: int,
) -> Benchmark:
    inputs = subject.inputs(visual_tokens, text_tokens)
    with steps() as bar:
        task = bar.add_task("measuring")
        return subject.adapter.benchmark(
            subject.model,
            inputs,
            strategies,
            parts=subject.parts,
            rounds=rounds,
            planning_layout=subject.planning_layout,
            processor=subject.processor,
            on_task=lambda done, total: bar.update(task, completed=done, total=total),
            batch=batch,
            text_tokens=text_tokens if subject.lengthen else None,
            details=True,
            generate=answers,
            modes=modes,
        )


def _growth(rounds: int, limit: float, device: str | None, dtype: str) -> Growth:
    with steps() as bar:
        task = bar.add_task("measuring", total=None)
        return growing().growth(
            GROWTH_SIZES,
            Strategy.preset("llava-onevision-7b/25"),
            rounds=rounds,
            limit=limit,
            device=device,
            dtype=dtype,
            on_task=lambda name, tokens: bar.update(task, description=f"{name}: {tokens:,} tokens"),
        )


def _budgets(text: str) -> list[float]:
    from vflowopt.components.schedule import check_budget

    return _numbers("--budgets", text, "numbers in (0, 1]", lambda part: check_budget(float(part)))


def _modes(text: str) -> list[Mode]:
    asked = list(dict.fromkeys(text.split(",")))
    unknown = [name for name in asked if name not in MODES]
    if unknown:
        raise InputError(f"--modes takes names separated by commas, of {', '.join(MODES)}; there is no {unknown[0]!r}")
    return cast(list[Mode], asked)


def _whole(option: str, text: str | None) -> list[int]:
    def positive(part: str) -> int:
        if int(part) < 1:
            raise ValueError(f"{part} is less than 1")
        return int(part)

    return [] if text is None else _numbers(option, text, "whole numbers from 1 on", positive)


def _numbers(option: str, text: str, kind: str, read: Callable[[str], Number]) -> list[Number]:
    try:
        return [read(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} takes {kind} separated by commas, got {text!r}: {error}") from error
