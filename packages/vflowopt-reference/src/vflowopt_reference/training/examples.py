"""Batches: scenes of one canvas as views and patch labels, and their questions packed into one sequence per scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..architectures.base import Architecture
from ..geometry import PATCH, VIEW, Canvas
from ..questions import DESCRIBE, Question, questions
from ..scene import Scene, scene
from ..seeds import Split, stream
from ..vocabulary import COLORS, DIGITS, SHAPES, TURN_END, TURN_START, VOCABULARY

IGNORE: Final = -100
"""The target of a position without loss, as in torch's cross entropy."""

_GLYPH: Final = 9.0  # a patch this near an object's centre shows part of its digit (Chebyshev distance, pixels)
_COVER: Final = 0.25  # a cell belongs to an object that covers so much of it
_CORE: Final = 0.5  # and is asked for its digit if so much of a patch's area lies near the digit
_LEGIBLE: Final = 0.7  # squeezed to less than this, a digit of 14 px is not asked of the tower
_END_WEIGHT: Final = 0.15  # ending an answer is easy: keep it from drowning the answer's loss


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Scenes of one canvas, ready for the model. B scenes, V views each, T text tokens.

    Attributes:
        pixels: ``[B, V, 3, h, w]``, normalised as the image processor does.
        labels: ``[B, V, cells, 3]``: colour, shape, digit of each cell, 0 for background, IGNORE where not asked.
        canvas: height and width.
        ids: ``[B, T]`` text after the image: question branches one after the other.
        branch: ``[B, T]`` number of the branch a token belongs to, -1 for filler.
        offset: ``[B, T]`` position of a token in its own branch.
        targets: ``[B, T]`` the next token, IGNORE outside answers.
        weights: ``[B, T]`` loss weights.
        asked: per scene, (kind, position of the answer's first prediction) of each branch.
    """

    pixels: Tensor
    labels: Tensor
    canvas: Canvas
    ids: Tensor
    branch: Tensor
    offset: Tensor
    targets: Tensor
    weights: Tensor
    asked: tuple[tuple[tuple[str, int], ...], ...]


def make_batch(
    architecture: Architecture,
    split: Split,
    seed: int,
    first: int,
    count: int,
    canvas: Canvas,
    branches: int,
    emphasis: Mapping[str, float] | None = None,
) -> Batch:
    """Scenes ``first`` to ``first + count - 1`` of a split, with at most ``branches`` questions each.

    ``emphasis`` multiplies the loss weights of kinds of questions.
    """
    scenes, packed = (
        list[Scene](),
        list[tuple[list[int], list[int], list[int], list[int], list[float], list[tuple[str, int]]]](),
    )
    for index in range(first, first + count):
        rng = stream(split, seed, index)
        scenes.append(scene(rng, canvas))
        packed.append(_pack(_choose(rng, questions(scenes[-1].objects), branches), emphasis or {}))
    length = max(len(p[0]) for p in packed)

    def padded(column: int, filler: float, dtype: torch.dtype) -> Tensor:
        rows = [[*p[column], *[filler] * (length - len(p[0]))] for p in packed]
        return torch.tensor(rows, dtype=dtype)

    return Batch(
        pixels=architecture.normalise(np.stack([architecture.views(s.image) for s in scenes])),
        labels=torch.from_numpy(np.stack([cell_labels(architecture, s) for s in scenes])),
        canvas=canvas,
        ids=padded(0, 0, torch.long),
        branch=padded(1, -1, torch.long),
        offset=padded(2, 0, torch.long),
        targets=padded(3, IGNORE, torch.long),
        weights=padded(4, 0.0, torch.float32),
        asked=tuple(tuple(p[5]) for p in packed),
    )


def _choose(rng: np.random.Generator, pool: list[Question], branches: int) -> list[Question]:
    """At most ``branches`` questions in random order, taken from the kinds in turn so that none is crowded out."""
    order = [pool[i] for i in rng.permutation(len(pool))]
    rank, seen = list[tuple[int, int]](), dict[str, int]()
    for i, question in enumerate(order):
        turn = seen[question.kind] = seen.get(question.kind, -1) + 1
        # One description per scene is enough: it is the longest branch.
        rank.append((turn + (100 if question.kind == DESCRIBE and turn else 0), i))
    return [order[i] for turn, i in sorted(rank)[:branches] if turn < 100]


def _pack(
    chosen: list[Question], emphasis: Mapping[str, float]
) -> tuple[list[int], list[int], list[int], list[int], list[float], list[tuple[str, int]]]:
    ids, branch, offset = list[int](), list[int](), list[int]()
    targets, weights, asked = list[int](), list[float](), list[tuple[str, int]]()
    for number, question in enumerate(chosen):
        prompt = [*words(question.text), VOCABULARY[TURN_END], VOCABULARY[TURN_START], VOCABULARY["assistant"]]
        answer = [*words(question.answer), VOCABULARY[TURN_END]]
        tokens = [*prompt, *answer[:-1]]
        asked.append((question.kind, len(ids) + len(prompt) - 1))
        ids += tokens
        branch += [number] * len(tokens)
        offset += range(len(tokens))
        targets += [*[IGNORE] * (len(prompt) - 1), *answer]
        weights += [*[0.0] * (len(prompt) - 1), *[emphasis.get(question.kind, 1.0)] * (len(answer) - 1), _END_WEIGHT]
    return ids, branch, offset, targets, weights, asked


def words(text: str) -> list[int]:
    """Token ids of a sentence of the closed vocabulary; a test holds this against the tokenizer.

    Raises:
        KeyError: a word outside the vocabulary.
    """
    return [VOCABULARY[word] for word in text.replace("?", " ?").replace(".", " .").split()]


def cell_labels(architecture: Architecture, item: Scene) -> NDArray[np.int64]:
    """Colour, shape and digit of every cell of every view, ``[V, cells, 3]``; see :class:`Batch`."""
    height, width = item.canvas
    y, x = np.mgrid[0:height, 0:width]
    near = np.zeros((height, width), np.uint8)
    for number, o in enumerate(item.objects, 1):
        near[(np.abs(y - o.y) <= _GLYPH) & (np.abs(x - o.x) <= _GLYPH)] = number
    count, cell = len(item.objects), architecture.cell
    cover = _cover(architecture.planes(item.owner), count, cell)
    core = _cover(architecture.planes(near), count, cell)
    # A cell that several objects share belongs to the one that covers most of it.
    owner = np.where(cover.max(-1) > _COVER, cover.argmax(-1) + 1, 0)
    labels = np.zeros((*owner.shape, 3), np.int64)
    colors = tuple(COLORS)
    legible = _CORE * (PATCH / cell) ** 2
    for k, o in enumerate(item.objects):
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
