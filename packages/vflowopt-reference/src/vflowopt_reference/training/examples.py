"""Batches: scenes of one canvas as views and patch labels, and their questions packed into one sequence per scene."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..geometry import PATCH, SIDE, VIEW, Canvas, tile, views
from ..questions import DESCRIBE, Question, questions
from ..scene import Scene, scene
from ..seeds import Split, stream
from ..vocabulary import COLORS, DIGITS, SHAPES, TURN_END, TURN_START, VOCABULARY

IGNORE: Final = -100
"""The target of a position without loss, as in torch's cross entropy."""

_GLYPH: Final = 9.0  # a patch this near an object's centre shows part of its digit (Chebyshev distance, pixels)
_COVER: Final = 0.25  # a patch belongs to an object that covers so much of it
_LEGIBLE: Final = 0.7  # squeezed to less than this, a digit of 14 px is not asked of the tower
_END_WEIGHT: Final = 0.15  # ending an answer is easy: keep it from drowning the answer's loss


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Scenes of one canvas, ready for the model. B scenes, V views each, T text tokens.

    Attributes:
        pixels: ``[B, V, 3, 112, 112]``, normalised as the image processor does.
        labels: ``[B, V, 196, 3]``: colour, shape, digit of each patch, 0 for background, IGNORE where not asked.
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


def normalise(pixels: NDArray[np.uint8]) -> Tensor:
    """``[..., height, width, 3]`` bytes to ``[..., 3, height, width]`` in [-1, 1]."""
    return (torch.from_numpy(np.ascontiguousarray(pixels)).movedim(-1, -3).float() / 127.5 - 1).contiguous()


def make_batch(
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
        pixels=normalise(np.stack([views(s.image) for s in scenes])),
        labels=torch.from_numpy(np.stack([patch_labels(s) for s in scenes])),
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


def patch_labels(item: Scene) -> NDArray[np.int64]:
    """Colour, shape and digit of every patch of every view, ``[views, 196, 3]``; see :class:`Batch`."""
    height, width = item.canvas
    # What each pixel's patch may be asked: the object, and the object again near its digit.
    y, x = np.mgrid[0:height, 0:width]
    squeezed = Image.fromarray(item.owner).resize((VIEW, VIEW), Image.Resampling.NEAREST)
    owners = np.concatenate([np.asarray(squeezed)[None], tile(item.owner, item.canvas)])
    near = np.zeros((height, width), np.uint8)
    for number, o in enumerate(item.objects, 1):
        near[(np.abs(y - o.y) <= _GLYPH) & (np.abs(x - o.x) <= _GLYPH)] = number
    squeezed_near = Image.fromarray(near).resize((VIEW, VIEW), Image.Resampling.NEAREST)
    nears = np.concatenate([np.asarray(squeezed_near)[None], tile(near, item.canvas)])
    cover, core = _cover(owners, len(item.objects)), _cover(nears, len(item.objects))
    labels = np.zeros((*cover.shape[:2], 3), np.int64)
    colors = tuple(COLORS)
    for k, o in enumerate(item.objects):
        covered = cover[..., k] > _COVER
        labels[covered, 0] = colors.index(o.color) + 1
        labels[covered, 1] = SHAPES.index(o.shape) + 1
        labels[covered, 2] = np.where(core[..., k] > 0.5, DIGITS.index(o.digit) + 1, IGNORE)[covered]
    if min(VIEW / height, VIEW / width) < _LEGIBLE:
        labels[0, :, 2] = np.where(labels[0, :, 2] > 0, IGNORE, labels[0, :, 2])
    return labels


def _cover(planes: NDArray[np.uint8], objects: int) -> NDArray[np.float64]:
    """Share of each patch that each object covers: ``[views, 112, 112]`` to ``[views, 196, objects]``."""
    patches = planes.reshape(-1, SIDE, PATCH, SIDE, PATCH).swapaxes(2, 3).reshape(-1, SIDE**2, PATCH**2)
    return np.stack([(patches == k).mean(-1) for k in range(1, objects + 1)], -1)
