"""``vflowopt flow``: how far strategies move the text tokens' hidden states, layer by layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from vflowopt.adapter import FlowAdapter, strategy_of
from vflowopt.benchmark.flow import MEASURES, TOKENS, Flow, Measure, Tokens
from vflowopt.cli.console import print_json, results, steps, tracked, working
from vflowopt.cli.data import PromptOption, SampleImagesOption, gather
from vflowopt.cli.help import Command
from vflowopt.cli.media import FRAMES, FramesOption, VideosOption
from vflowopt.cli.models import DeviceOption, DtypeOption, ModelOption, choose
from vflowopt.cli.outputs import ForceOption, claim
from vflowopt.cli.strategies import STRATEGIES, StrategiesOption
from vflowopt.cli.tables import print_table
from vflowopt.errors import InputError, UnsupportedOperationError
from vflowopt.figures import percent, score
from vflowopt.strategies.reading import read_strategy

EXAMPLES = """
[b]Examples[/b]

vflowopt flow -m reference -s mean-attention@0.25 -s random@0.25 -s reference-25.json --out flow.png
"""

Name = TypeVar("Name", bound=str)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("flow", cls=Command, epilog=EXAMPLES + STRATEGIES)(flow)


def flow(
    model: ModelOption,
    strategy: StrategiesOption,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="PNG to draw the curves into.")] = None,
    tokens: Annotated[
        str, typer.Option(help="Which tokens the table shows: text (mean over those after the visual ones) or last.")
    ] = "text",
    measure: Annotated[
        str, typer.Option(help="What table and picture show: cosine (1 - cosine similarity) or l2 (relative distance).")
    ] = "cosine",
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSONL of image or video, question; a named model brings its own test questions."
        ),
    ] = None,
    images: SampleImagesOption = None,
    video: VideosOption = None,
    frames: FramesOption = FRAMES,
    prompt: PromptOption = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Samples at most: the first ones.")] = 20,
    force: ForceOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: all tokens and measures.")] = False,
) -> None:
    """Compare text tokens' hidden states with and without pruning, after every decoder layer (paper Figure 5)."""
    from vflowopt.picture.png import PNG_FILE, png
    from vflowopt.plugins import load_adapter

    shown, unit = _one_of(TOKENS, "--tokens", tokens), _one_of(MEASURES, "--measure", measure)
    claimed = None if out is None else claim(out, PNG_FILE, force, images, video, data)
    given = {text: read_strategy(text) for text in strategy}
    chosen = choose(model)
    questions = gather(
        chosen, data=data, split="test", count=limit, images=images, videos=video, frames=frames, prompt=prompt
    )
    with working(f"importing what {chosen.label} needs"):
        adapter = load_adapter(chosen.model_type)
    if not isinstance(adapter, FlowAdapter):
        raise UnsupportedOperationError(
            f"adapter {adapter.name!r} has no flow(): it cannot observe hidden states per layer; ask its authors for it"
        )
    loaded = chosen.load(device, dtype)
    strategies = {text: strategy_of(adapter, loaded.model, strategy_for) for text, strategy_for in given.items()}
    inputs = tracked([question.prepare(loaded) for question in questions], f"encoding {len(questions)} samples")
    with steps() as bar:
        task = bar.add_task("prefills", total=None)
        found = adapter.flow(
            loaded.model,
            inputs,
            strategies,
            processor=loaded.processor,
            on_task=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if claimed is not None:
        from vflowopt.picture.curves import draw_flow

        subtitle = f"{found.samples} samples, with pruning against without"
        claimed.write(png(draw_flow(found, measure=unit, title=chosen.label, subtitle=subtitle)))
    if as_json:
        print_json({**found.describe(), "file": None if out is None else str(out)})
        return
    _print(found, shown, unit, chosen.label)
    if out is not None:
        results().print(str(out), highlight=False, soft_wrap=True)


def _print(found: Flow, tokens: Tokens, measure: Measure, label: str) -> None:
    curves = [(each.mean(tokens, measure), each.spread(tokens, measure)) for each in found.strategies]
    rows = [("retention", *(percent(each.retention) for each in found.strategies))]
    for layer in range(found.num_layers):
        cells = [
            f"{'> ' if layer in each.boundaries else ''}{score(mean[layer])} ± {score(spread[layer])}"
            for each, (mean, spread) in zip(found.strategies, curves, strict=True)
        ]
        rows.append((f"layer {layer}", *cells))
    title = f"{label}: {MEASURES[measure]} to unpruned, {TOKENS[tokens]}"
    caption = f"Mean ± standard deviation of {found.samples} samples, after each decoder layer. >: a stage begins."
    columns = ("after", *(each.name for each in found.strategies))
    print_table(title, columns, rows, caption)


def _one_of(known: Mapping[Name, str], option: str, text: str) -> Name:
    for name in known:
        if name == text:
            return name
    raise InputError(f"{option} is {text!r}; choose {' or '.join(known)}")
