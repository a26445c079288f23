"""Options of every command that searches."""

from typing import Annotated

import typer

from vflowopt.errors import StrategyError, shown

FixOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE", help="A variable that is not to vary; diversity=0 searches the paper's strategies."
    ),
]
StagesOption = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Decoder layers before which to prune, by default 0, a third and two thirds of them; 0 alone for vLLM.",
    ),
]
InitialOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Evaluations of a search: known good strategies, then random ones.")
]
IterationsOption = Annotated[int, typer.Option(min=0, metavar="N", help="Evaluations of a search after those.")]


def read_stages(text: str | None) -> list[int] | None:
    """The layers of ``--stages``, if it is given.

    Raises:
        StrategyError: they are no increasing numbers.
    """
    if text is None:
        return None
    parts = text.split(",")
    stages = [int(part) for part in parts if part.strip().isdecimal()]
    if len(stages) < len(parts) or stages != sorted(set(stages)):
        raise StrategyError(
            f"--stages are increasing numbers of decoder layers separated by commas, for example 0 or 0,9,18; got "
            f"{shown(text)}"
        )
    return stages
