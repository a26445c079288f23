"""What a reference model is taught and measured on: pictures, and questions about them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from .geometry import Canvas
from .questions import Question

IGNORE: Final = -100
"""The label of what is not asked, as in torch's cross entropy."""


class Drawn(Protocol):
    """A picture of any task."""

    @property
    def image(self) -> NDArray[np.uint8]:
        """8-bit RGB, ``[height, width, 3]``."""

    @property
    def canvas(self) -> Canvas:
        """Height and width in pixels."""


class Sight(Protocol):
    """What labels must know of an architecture."""

    @property
    def cell(self) -> int:
        """Side in pixels of what one vector shows."""

    def planes(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A map ``[height, width]`` cut like an image: ``[V, h, w]``."""


class Task(ABC):
    """Pictures, questions and words. Stateless; imports no torch."""

    vocabulary: ClassVar[Mapping[str, int]]
    """Word to token id."""
    derived: ClassVar[Mapping[str, str]] = {}
    """Words whose meaning starts as that of another one, such as plurals."""
    canvases: ClassVar[tuple[Canvas, ...]]
    """Sizes of pictures in pixels."""
    kinds: ClassVar[tuple[str, ...]]
    """Kinds of questions that are measured."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, canvas: Canvas) -> Any:
        """One picture (:class:`Drawn`); everything about it follows from the state of ``rng``."""

    @abstractmethod
    def questions(self, picture: Any) -> list[Question]:
        """Every well-posed question about a picture of :meth:`draw`."""

    @abstractmethod
    def labels(self, sight: Sight, picture: Any) -> NDArray[np.int64]:
        """Colour, shape and digit of every cell of every view, ``[V, cells, 3]``.

        0 is nothing; the k-th word of its kind is k + 1; :data:`IGNORE` where it is not asked.
        """
