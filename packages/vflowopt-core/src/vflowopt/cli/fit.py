"""``vflowopt fit``: fit a method's schedule to samples."""

from pathlib import Path
from typing import Annotated

import typer

from vflowopt.cli.console import print_json, results, tracked, working
from vflowopt.cli.data import PromptOption, SampleDataOption, SampleImagesOption, gather
from vflowopt.cli.help import Command
from vflowopt.cli.media import FRAMES, FramesOption, VideosOption
from vflowopt.cli.models import DeviceOption, DtypeOption, ModelOption, choose
from vflowopt.cli.outputs import ForceOption, claim
from vflowopt.figures import percent
from vflowopt.search.fitting import check_observable, fitted_provenance, observe
from vflowopt.strategies.specification import read_fitting
from vflowopt.strategies.strategy import STRATEGY_FILE

EXAMPLES = """
[b]Examples[/b]

vflowopt fit -m reference --method fitprune --budget 0.25 --out fitprune-25.json

vflowopt fit -m llava-hf/llava-onevision-qwen2-7b-ov-hf --method fitprune --budget 0.25 --images photos/ --out 25.json
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("fit", cls=Command, epilog=EXAMPLES)(fit)


def fit(
    model: ModelOption,
    method: Annotated[
        str,
        typer.Option(metavar="METHOD", help="[b]SCORER[,OPTION=VALUE...][/b] of a method that is fitted to samples."),
    ],
    budget: Annotated[float, typer.Option(metavar="SHARE", help="Average retention in (0, 1], for example 0.25.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Strategy file to write.")],
    images: SampleImagesOption = None,
    video: VideosOption = None,
    frames: FramesOption = FRAMES,
    prompt: PromptOption = None,
    data: SampleDataOption = None,
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="How many samples to use: the first ones.")] = 10,
    force: ForceOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fit a method's schedule to the attention on a few samples, and write it as a strategy file.

    Costs two prefills per sample. Nothing is trained.
    """
    from vflowopt.plugins import load_adapter

    # Everything that can be refused without loading a model is refused first.
    fitting = read_fitting(method, budget)
    claimed = claim(out, STRATEGY_FILE, force, images, video, data)
    chosen = choose(model)
    questions = gather(
        chosen, data=data, split="search", count=samples, images=images, videos=video, frames=frames, prompt=prompt
    )
    with working(f"importing what {chosen.label} needs"):
        adapter = load_adapter(chosen.model_type)
    check_observable(adapter, adapter.name)
    loaded = chosen.load(device, dtype)
    layers = adapter.num_layers(loaded.model)
    inputs = tracked([question.prepare(loaded) for question in questions], f"observing {len(questions)} samples")
    provenance = fitted_provenance(fitting, chosen.label, layers, len(questions), "vflowopt fit")
    strategy = fitting.fit(observe(loaded, inputs, ranks=fitting.scorer.fits_to_ranks), provenance)
    claimed.write(strategy.to_json())
    retention, stages = strategy.average_retention(layers), strategy.schedule.boundaries
    if as_json:
        print_json({"strategy": strategy.model_dump(mode="json"), "file": str(out), "retention": retention})
        return
    results().print(
        f"{out}: {method} at {percent(retention)} average retention, fitted to {len(questions)} samples; prunes before "
        f"layers {', '.join(map(str, stages))} of {layers}",
        highlight=False,
        soft_wrap=True,
    )
