"""Batches: scenes of one canvas as views and patch labels, and their questions packed into one sequence per scene."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from ..architectures.base import Architecture
from ..geometry import Canvas
from ..questions import DESCRIBE, Question
from ..seeds import Split, stream
from ..task import IGNORE, Drawn
from ..vocabulary import TURN_END, TURN_START

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
    left_out: Collection[str] = (),
) -> Batch:
    """Scenes ``first`` to ``first + count - 1`` of a split, with at most ``branches`` questions each.

    ``emphasis`` multiplies the loss weights of kinds of questions, ``left_out`` are kinds that are not asked.
    """
    task = architecture.task
    scenes, packed = (
        list[Drawn](),
        list[tuple[list[int], list[int], list[int], list[int], list[float], list[tuple[str, int]]]](),
    )
    for index in range(first, first + count):
        rng = stream(split, seed, index)
        scenes.append(task.draw(rng, canvas))
        pool = [question for question in task.questions(scenes[-1]) if question.kind not in left_out]
        packed.append(_pack(task.vocabulary, _choose(rng, pool, branches), emphasis or {}))
    length = max(len(p[0]) for p in packed)

    def padded(column: int, filler: float, dtype: torch.dtype) -> Tensor:
        rows = [[*p[column], *[filler] * (length - len(p[0]))] for p in packed]
        return torch.tensor(rows, dtype=dtype)

    return Batch(
        pixels=architecture.normalise(np.stack([architecture.views(s.image) for s in scenes])),
        labels=torch.from_numpy(np.stack([task.labels(architecture, s) for s in scenes])),
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
    vocabulary: Mapping[str, int], chosen: list[Question], emphasis: Mapping[str, float]
) -> tuple[list[int], list[int], list[int], list[int], list[float], list[tuple[str, int]]]:
    ids, branch, offset = list[int](), list[int](), list[int]()
    targets, weights, asked = list[int](), list[float](), list[tuple[str, int]]()
    for number, question in enumerate(chosen):
        prompt = [vocabulary[word] for word in (*words(question.text), TURN_END, TURN_START, "assistant")]
        answer = [vocabulary[word] for word in (*words(question.answer), TURN_END)]
        tokens = [*prompt, *answer[:-1]]
        asked.append((question.kind, len(ids) + len(prompt) - 1))
        ids += tokens
        branch += [number] * len(tokens)
        offset += range(len(tokens))
        targets += [*[IGNORE] * (len(prompt) - 1), *answer]
        weights += [*[0.0] * (len(prompt) - 1), *[emphasis.get(question.kind, 1.0)] * (len(answer) - 1), _END_WEIGHT]
    return ids, branch, offset, targets, weights, asked


def words(text: str) -> list[str]:
    """The words of a sentence of a closed vocabulary; a test holds this against the tokenizer."""
    return text.replace("?", " ?").replace(".", " .").split()
