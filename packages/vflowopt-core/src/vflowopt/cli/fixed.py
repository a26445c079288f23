"""``--fix NAME=VALUE``: variables that a search is not to vary."""

from typing import Annotated

import typer

FixOption = Annotated[
    list[str] | None,
    typer.Option(help="NAME=VALUE: a variable that is not to vary; diversity=0 searches the paper's strategies."),
]
