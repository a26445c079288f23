"""The task of the first reference models: a few objects, each found by its colour, its shape, or both."""

from __future__ import annotations

from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from .canvases import CANVASES
from .geometry import PATCH, VIEW, Canvas
from .questions import KINDS, Question, questions
from .scene import Scene, scene
from .task import IGNORE, Sight, Task
from .vocabulary import COLORS, DIGITS, SHAPES, VOCABULARY

_GLYPH: Final = 9.0  # a patch this near an object's centre shows part of its digit (Chebyshev distance, pixels)
_COVER: Final = 0.25  # a cell belongs to an object that covers so much of it
_CORE: Final = 0.5  # and is asked for its digit if so much of a patch's area lies near the digit
_LEGIBLE: Final = 0.7  # squeezed to less than this, a digit of 14 px is not asked of the tower


class Scenes(Task):
    """Two to seven objects with a digit each, on canvases of one view to six."""

    vocabulary: ClassVar = VOCABULARY
    canvases: ClassVar[tuple[Canvas, ...]] = CANVASES
    kinds: ClassVar[tuple[str, ...]] = KINDS

    def draw(self, rng: np.random.Generator, canvas: Canvas) -> Scene:
        """See :func:`vflowopt_reference.scene.scene`."""
        return scene(rng, canvas)

    def questions(self, picture: Scene) -> list[Question]:
        """See :func:`vflowopt_reference.questions.questions`."""
        return questions(picture.objects)

    def labels(self, sight: Sight, picture: Scene) -> NDArray[np.int64]:
        """A cell that several objects share belongs to the one that covers most of it."""
        height, width = picture.canvas
        y, x = np.mgrid[0:height, 0:width]
        near = np.zeros((height, width), np.uint8)
        for number, o in enumerate(picture.objects, 1):
            near[(np.abs(y - o.y) <= _GLYPH) & (np.abs(x - o.x) <= _GLYPH)] = number
        count, cell = len(picture.objects), sight.cell
        cover = _cover(sight.planes(picture.owner), count, cell)
        core = _cover(sight.planes(near), count, cell)
        owner = np.where(cover.max(-1) > _COVER, cover.argmax(-1) + 1, 0)
        labels = np.zeros((*owner.shape, 3), np.int64)
        colors = tuple(COLORS)
        legible = _CORE * (PATCH / cell) ** 2
        for k, o in enumerate(picture.objects):
            covered = owner == k + 1
            labels[covered, 0] = colors.index(o.color) + 1
            labels[covered, 1] = SHAPES.index(o.shape) + 1
            labels[covered, 2] = np.where(core[..., k] > legible, DIGITS.index(o.digit) + 1, IGNORE)[covered]
        if len(labels) > 1 and min(VIEW / height, VIEW / width) < _LEGIBLE:
            labels[0, :, 2] = np.where(labels[0, :, 2] > 0, IGNORE, labels[0, :, 2])
        return labels


def _cover(planes: NDArray[np.uint8], objects: int, cell: int) -> NDArray[np.float64]:
    """Share of each cell that each object covers: ``[V, h, w]`` to ``[V, cells, objects]``."""
    count, height, width = planes.shape
    cells = planes.reshape(count, height // cell, cell, width // cell, cell).swapaxes(2, 3)
    cells = cells.reshape(count, -1, cell**2)
    return np.stack([(cells == k).mean(-1) for k in range(1, objects + 1)], -1)
