"""``vflowopt calibrate``: measure what prefills cost on this machine, for guards and latency budgets."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from vflowopt.adapter import Adapter, Inputs, strategy_of
from vflowopt.budgets.calibration import calibrating, usual_strategies
from vflowopt.budgets.cost import COST_FILE, CostModel
from vflowopt.budgets.curve import Curve
from vflowopt.cli.console import print_json, results, steps
from vflowopt.cli.data import DEFAULT_PROMPT, Question, SampleDataOption, SampleImagesOption, gather
from vflowopt.cli.help import Command
from vflowopt.cli.media import FRAMES, FramesOption, ImagesOption, open_image
from vflowopt.cli.models import DeviceOption, DtypeOption, ModelOption, choose
from vflowopt.cli.outputs import ForceOption, claim
from vflowopt.cli.strategies import STRATEGIES, FurtherStrategiesOption
from vflowopt.cli.tables import print_table
from vflowopt.errors import InputError
from vflowopt.figures import percent, seconds
from vflowopt.strategies.reading import read_strategy
from vflowopt.strategies.strategy import Strategy

EXAMPLES = """
[b]Examples[/b]

vflowopt calibrate -m reference --out cost.json

vflowopt calibrate -m llava-hf/llava-onevision-qwen2-7b-ov-hf -i photo.jpg --max-tokens 8192 --out cost.json

vflowopt run -m reference -i scene.png -p "what digit is on the red circle?" -s reference-25.json --guard cost.json
"""
SCALES = (1.0, 0.8, 0.6, 0.4)
"""Sides of the copies of an image, in parts of its own: models that look at every pixel get as many sizes."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("calibrate", cls=Command, epilog=EXAMPLES + STRATEGIES)(calibrate)


def calibrate(
    model: ModelOption,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Cost model to write.")],
    image: ImagesOption = None,
    images: SampleImagesOption = None,
    data: SampleDataOption = None,
    frames: FramesOption = FRAMES,
    samples: Annotated[
        int, typer.Option(min=1, metavar="N", help="Samples to choose four of different sizes from.")
    ] = 12,
    strategy: FurtherStrategiesOption = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Longest prefill to measure; by default the longest sample's."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Measured rounds, after one that warms up.")] = 7,
    force: ForceOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the cost model.")] = False,
) -> None:
    """Measure prefills of several lengths, and what pruning itself takes, on this machine.

    The cost model serves --guard of run and evaluate, and --prefill-latency of optimize. A sample image is used in
    four sizes.
    """
    if image and (images or data):
        raise InputError("give --image, or --images, or --data")
    given = [read_strategy(text) for text in strategy or ()]
    claimed = claim(out, COST_FILE, force, image, images, data)
    chosen = choose(model)
    questions = (
        list(_sizes(image))
        if image
        else gather(chosen, data=data, split="test", count=samples, images=images, frames=frames)
    )
    loaded = chosen.load(device, dtype)
    cost = measure(
        loaded.adapter,
        loaded.model,
        [question.prepare(loaded) for question in questions],
        [strategy_of(loaded.adapter, loaded.model, strategy_for) for strategy_for in given],
        max_rows=max_tokens,
        rounds=rounds,
        processor=loaded.processor,
        name=chosen.label,
    )
    claimed.write(cost.to_json())
    if as_json:
        print_json(cost.model_dump(mode="json"))
        return
    show(cost, out)


def measure(
    adapter: Adapter,
    model: Any,
    inputs: Sequence[Inputs],
    strategies: Sequence[Strategy] = (),
    *,
    max_rows: int | None = None,
    rounds: int,
    processor: Any,
    name: str,
) -> CostModel:
    """Calibrate with a progress bar; the usual strategies are measured besides the given ones.

    Raises:
        UnsupportedOperationError: the adapter knows nothing of times.
        InputError, StrategyError, BudgetError: see :meth:`vflowopt.budgets.calibration.CalibratingAdapter.calibrate`.
    """
    able = calibrating(adapter)
    with steps() as bar:
        task = bar.add_task("measuring", total=None)
        return able.calibrate(
            model,
            inputs,
            [*usual_strategies(adapter.num_layers(model)), *strategies],
            max_rows=max_rows,
            rounds=rounds,
            processor=processor,
            name=name,
            on_task=lambda done, total: bar.update(task, completed=done, total=total),
        )


def show(cost: CostModel, out: Path) -> None:
    """Print measurements beside what was fitted to them."""
    parts = {"decoder": cost.decoder, "outside the decoder": cost.outside}
    parts |= {f"pruning: {part.kind}": part.curve for part in cost.pruning}
    rows = [row for name, curve in parts.items() for row in _rows(name, curve)]
    caption = (
        "Tokens: rows of the decoder; of the other parts visual tokens of each unit. Predictions are as good as this "
        "fit; beyond the largest tokens they are extrapolated."
    )
    title = f"{cost.model}: {cost.device}, {cost.dtype}"
    print_table(title, ("part", "tokens", "measured", "fitted", "error"), rows, caption)
    worst = max(curve.residual for curve in parts.values())
    results().print(f"{out}: largest error of the fit {percent(worst)}", highlight=False, soft_wrap=True)


def _rows(name: str, curve: Curve) -> Iterator[tuple[str, ...]]:
    for (tokens, took), error in zip(curve.measured, curve.errors(), strict=True):
        shown = "+".join(f"{part:.0f}" for part in tokens)
        # What is left of two times that are alike may be negative.
        yield name, shown, seconds(took), seconds(curve.total(tokens)), f"{'+' if error >= 0 else ''}{percent(error)}"
        name = ""


def _sizes(paths: Sequence[Path]) -> Iterator[Question]:
    for path in paths:
        image = open_image(path)
        for scale in SCALES:
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            yield Question((image.resize(size, Image.Resampling.BICUBIC),), DEFAULT_PROMPT["image"])
