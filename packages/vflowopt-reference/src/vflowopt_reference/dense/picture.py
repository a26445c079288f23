"""A dense picture: marks on a lattice of cells, so that a visual token of Qwen2-VL shows one mark or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from ..geometry import Canvas

CELL: Final = 16
"""Side of a cell in pixels."""
Page = Literal["crowd", "chart", "ledger"]


@dataclass(frozen=True, slots=True)
class Item:
    """What questions can ask for: an object of a crowd, a bar of a chart, an entry of a ledger.

    Attributes:
        color: its name.
        shape: of the object or of the entry's icon; empty for bars.
        digits: on the object, the bar's value, or the entry's number.
        row: of its first cell; of a bar, the cell where it ends.
        column: of its first cell.
    """

    color: str
    shape: str
    digits: str
    row: int
    column: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What one cell shows."""

    row: int
    column: int
    color: str | None = None
    shape: str | None = None
    digit: str | None = None
    unasked: bool = False
    """Whether the digit is left open: something of it may be seen."""


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image and what is in it.

    Attributes:
        image: 8-bit RGB, ``[height, width, 3]``.
        page: what kind of picture it is.
        items: what questions ask for; no two agree in both colour and shape.
        marks: every cell that shows something.
    """

    image: NDArray[np.uint8]
    page: Page
    items: tuple[Item, ...]
    marks: tuple[Mark, ...]

    @property
    def canvas(self) -> Canvas:
        """Height and width in pixels."""
        return self.image.shape[0], self.image.shape[1]


def cells(canvas: Canvas) -> tuple[int, int]:
    """Rows and columns of cells."""
    return canvas[0] // CELL, canvas[1] // CELL


def centre(row: int, column: int) -> tuple[float, float]:
    """``x`` and ``y`` of a cell's centre in pixels."""
    return CELL * (column + 0.5), CELL * (row + 0.5)
