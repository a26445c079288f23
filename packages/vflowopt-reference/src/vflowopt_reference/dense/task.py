"""The task of ``reference-dense``."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from ..geometry import Canvas
from ..questions import Question
from ..task import IGNORE, Sight, Task
from ..vocabulary import COLORS, DIGITS, SHAPES
from .chart import chart
from .crowd import crowd
from .ledger import ledger
from .picture import Picture, cells
from .questions import KINDS, questions
from .words import PLURALS, VOCABULARY

PAGES: Final[tuple[tuple[Callable[[np.random.Generator, Canvas], Picture], float], ...]] = (
    (crowd, 0.4),
    (chart, 0.35),
    (ledger, 0.25),
)
"""What is drawn, and how often."""


class Dense(Task):
    """Crowds, charts and ledgers on seven canvases of 49 to 100 cells."""

    vocabulary: ClassVar = VOCABULARY
    derived: ClassVar = PLURALS
    canvases: ClassVar[tuple[Canvas, ...]] = (
        (112, 112),
        (112, 144),
        (144, 112),
        (128, 128),
        (128, 160),
        (160, 128),
        (160, 160),
    )
    kinds: ClassVar[tuple[str, ...]] = KINDS

    def draw(self, rng: np.random.Generator, canvas: Canvas) -> Picture:
        """A page of one kind."""
        pages, often = zip(*PAGES, strict=True)
        return pages[int(rng.choice(len(pages), p=often))](rng, canvas)  # type: ignore[no-any-return]

    def questions(self, picture: Picture) -> list[Question]:
        """See :func:`vflowopt_reference.dense.questions.questions`."""
        return questions(picture)

    def labels(self, sight: Sight, picture: Picture) -> NDArray[np.int64]:  # noqa: ARG002
        """The marks: one view, a cell per visual token."""
        labels = np.zeros((*cells(picture.canvas), 3), np.int64)
        for mark in picture.marks:
            groups = ((mark.color, tuple(COLORS)), (mark.shape, SHAPES), (mark.digit, DIGITS))
            found = [0 if word is None else names.index(word) + 1 for word, names in groups]
            labels[mark.row, mark.column] = [*found[:2], IGNORE if mark.unasked else found[2]]
        return labels.reshape(1, -1, 3)
