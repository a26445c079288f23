"""``vflowopt show``: what a strategy, or a front, keeps, merges and drops, drawn over images and videos."""

from pathlib import Path
from typing import Annotated

import typer

from vflowopt.adapter import strategy_of
from vflowopt.cli.console import results
from vflowopt.cli.data import ask
from vflowopt.cli.help import Command
from vflowopt.cli.media import FRAMES, FramesOption, ImagesOption, VideosOption
from vflowopt.cli.models import DeviceOption, DtypeOption, ModelOption, choose
from vflowopt.cli.outputs import ForceOption, claim
from vflowopt.cli.strategies import STRATEGIES, StrategyOption
from vflowopt.figures import percent
from vflowopt.strategies.front import StrategyFront
from vflowopt.strategies.reading import read_strategy
from vflowopt.strategies.specification import StrategyFor

MOST = 4
"""Budgets at which a front is drawn."""

EXAMPLES = """
[b]Examples[/b]

vflowopt show -m reference -i scene.png -p "what digit is on the red circle?" -s reference-25.json --out kept.png

vflowopt show -m reference -v frames/ -p "what digit is on the red circle?" -s reference-25.json --out kept.png
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("show", cls=Command, epilog=EXAMPLES + STRATEGIES)(show)


def show(
    model: ModelOption,
    prompt: Annotated[str, typer.Option("--prompt", "-p", metavar="TEXT", help="The question.")],
    strategy: StrategyOption,
    out: Annotated[Path, typer.Option(metavar="FILE", help="PNG to write.")],
    image: ImagesOption = None,
    video: VideosOption = None,
    frames: FramesOption = FRAMES,
    force: ForceOption = False,
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
) -> None:
    """Draw the importance map and the kept, merged and dropped tokens over the original pixels.

    A video becomes a contact sheet of its frames. A front is drawn at some of its budgets, one below the other.
    """
    from vflowopt.picture import draw_plans
    from vflowopt.picture.blocks import stack
    from vflowopt.picture.png import PNG_FILE, png

    claimed = claim(out, PNG_FILE, force, image, video)
    given, chosen = _strategies(strategy), choose(model)
    question = ask(image, video, frames, prompt)
    loaded = chosen.load(device, dtype)
    inputs = question.prepare(loaded)
    pictures = []
    for strategy_for in given:
        own = strategy_of(loaded.adapter, loaded.model, strategy_for)
        with loaded.adapter.prune(loaded.model, own, processor=loaded.processor) as pruning:
            answer = loaded.generate(inputs, 16)
            layers = pruning.report.num_layers
            share = "" if len(given) == 1 else f"{percent(own.average_retention(layers))}: "
            subtitle = f"{share}{answer}"
            pictures.append(
                draw_plans(pruning.plan, question.media(), num_layers=layers, title=prompt, subtitle=subtitle)
            )
    claimed.write(png(pictures[0] if len(pictures) == 1 else stack(pictures)))
    results().print(str(out), highlight=False, soft_wrap=True)


def _strategies(text: str) -> list[StrategyFor]:
    """What is drawn: a strategy, or a front at some of its budgets, its ends among them."""
    if not StrategyFront.is_in(text):
        return [read_strategy(text)]
    budgets = StrategyFront.load(text).budgets
    count = min(MOST, len(budgets))
    chosen = [budgets[index * (len(budgets) - 1) // max(count - 1, 1)] for index in range(count)]
    return [read_strategy(text, min(budget, 1.0)) for budget in chosen]
