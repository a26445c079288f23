"""``--guard`` and ``--cost``: a cost model from ``vflowopt calibrate``."""

from pathlib import Path
from typing import Annotated

import typer

from vflowopt.budgets.cost import CostModel

GuardOption = Annotated[
    Path | None,
    typer.Option(
        help="Cost model (vflowopt calibrate): inputs that pruning is not expected to speed up are left alone."
    ),
]


def read_cost(path: Path | None) -> CostModel | None:
    """The cost model of an option, if it is given.

    Raises:
        CostError: the file cannot be read, or is no cost model.
    """
    return None if path is None else CostModel.load(path)
