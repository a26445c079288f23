"""``--fix NAME=VALUE``: variables that a search is not to vary."""

from collections.abc import Iterable
from typing import Annotated

import typer

from vflowopt.errors import InputError

FixOption = Annotated[
    list[str] | None,
    typer.Option(help="NAME=VALUE: a variable that is not to vary; diversity=0 searches the paper's strategies."),
]


def read_fixed(texts: Iterable[str]) -> dict[str, float]:
    """Variables by name.

    Raises:
        InputError: a text is not NAME=VALUE with a number.
    """
    fixed = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            fixed[name] = float(value)
        except ValueError:
            raise InputError(f"--fix takes NAME=VALUE with a number, for example diversity=0, got {text!r}") from None
    return fixed
