"""Questions that the model never saw in training, on canvases of every size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from PIL import Image

from .canvases import CANVASES
from .questions import KINDS, Question, questions
from .scene import Scene, scene
from .seeds import stream

QUESTIONS_PER_IMAGE: Final = 2


@dataclass(frozen=True, slots=True)
class Example:
    """One image, one question about it, and the one-word answer.

    Attributes:
        image: RGB.
        question: as it goes into the prompt.
        answer: the word to be generated.
        kind: one of :data:`vflowopt_reference.questions.KINDS`.
    """

    image: Image.Image
    question: str
    answer: str
    kind: str


def held_out(count: int, *, seed: int = 0, split: Literal["test", "search", "validation"] = "test") -> list[Example]:
    """The first ``count`` questions of a held-out split; the same arguments always give the same questions.

    Canvases and kinds take turns; an image has at most two questions, of different kinds. No scene of one split or seed
    occurs in another, nor in training. Search strategies on ``search`` and report on ``test``.

    Raises:
        ValueError: a negative count or seed, or a split that is not held out.
    """
    if split not in ("test", "search", "validation"):
        raise ValueError(f"{split!r} is not a held-out split; those are test, search and validation")
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    examples, index = list[Example](), 0
    while len(examples) < count:
        item = held_out_scene(index, seed=seed, split=split)
        image = Image.fromarray(item.image)
        for asked in _choose(item, index):
            examples.append(Example(image, asked.text, asked.answer, asked.kind))
        index += 1
    return examples[:count]


def held_out_scene(index: int, *, seed: int, split: Literal["test", "search", "validation"]) -> Scene:
    """The scene behind the questions of one image of :func:`held_out`."""
    return scene(stream(split, seed, index), CANVASES[index % len(CANVASES)])


def _choose(item: Scene, index: int) -> list[Question]:
    pool = questions(item.objects)
    chosen = list[Question]()
    for turn in range(len(KINDS)):
        kind = KINDS[(index + turn) % len(KINDS)]
        of_kind = [q for q in pool if q.kind == kind]
        if of_kind and len(chosen) < QUESTIONS_PER_IMAGE:
            # Objects come in random order, so any rule that ignores them picks fairly.
            chosen.append(of_kind[index % len(of_kind)])
    return chosen
