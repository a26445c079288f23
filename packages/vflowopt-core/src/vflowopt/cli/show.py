"""``vflowopt show``: what a strategy keeps, merges and drops, drawn over the image."""

from pathlib import Path
from typing import Annotated

import typer

from vflowopt.cli.console import results
from vflowopt.cli.data import Question, open_image
from vflowopt.cli.models import DeviceOption, DtypeOption, ModelOption, choose
from vflowopt.cli.strategies import StrategyOption, read_strategy
from vflowopt.errors import InputError

EXAMPLES = """
[b]Example[/b]

vflowopt show -m reference -i scene.png -p "what digit is on the red circle?" -s reference-25.json --out kept.png
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("show", epilog=EXAMPLES)(show)


def show(
    model: ModelOption,
    image: Annotated[list[Path], typer.Option("--image", "-i", help="Image file; may be repeated.")],
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The question.")],
    strategy: StrategyOption,
    out: Annotated[Path, typer.Option(help="PNG to write.")],
    device: DeviceOption = None,
    dtype: DtypeOption = "auto",
) -> None:
    """Draw the importance map and the kept, merged and dropped tokens over the original pixels."""
    from vflowopt.picture import draw_plans

    if not out.parent.is_dir():
        raise InputError(f"cannot write {str(out)!r}: there is no directory {str(out.parent)!r}")
    chosen_strategy, chosen = read_strategy(strategy), choose(model)
    images = [open_image(path) for path in image]
    loaded = chosen.load(device, dtype)
    inputs = Question(tuple(images), prompt).prepare(loaded)
    with loaded.adapter.prune(loaded.model, chosen_strategy, processor=loaded.processor) as pruning:
        answer = loaded.generate(inputs, 16)
        picture = draw_plans(pruning.plan, images, num_layers=pruning.report.num_layers, title=prompt, subtitle=answer)
    picture.save(out, format="PNG")
    results().print(str(out), highlight=False, soft_wrap=True)
