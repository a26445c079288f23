"""Options of every command that searches."""

from typing import Annotated

import typer

FixOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE", help="A variable that is not to vary; diversity=0 searches the paper's strategies."
    ),
]
InitialOption = Annotated[
    int, typer.Option(min=1, metavar="N", help="Evaluations of a search: known good strategies, then random ones.")
]
IterationsOption = Annotated[int, typer.Option(min=0, metavar="N", help="Evaluations of a search after those.")]
