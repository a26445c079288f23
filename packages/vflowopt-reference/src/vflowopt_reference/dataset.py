"""Questions that the models never saw in training, on canvases of every size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, cast

from PIL import Image

from .questions import Question
from .seeds import stream
from .task import Drawn, Task
from .tasks import TASKS

QUESTIONS_PER_IMAGE: Final = 2


@dataclass(frozen=True, slots=True)
class Example:
    """One image, one question about it, and the answer.

    Attributes:
        image: RGB.
        question: as it goes into the prompt.
        answer: the words to be generated.
        kind: one of the kinds of the model's task.
    """

    image: Image.Image
    question: str
    answer: str
    kind: str


def held_out(
    count: int,
    *,
    seed: int = 0,
    split: Literal["test", "search", "validation"] = "test",
    model: str = "reference",
) -> list[Example]:
    """The first ``count`` questions of a held-out split; the same arguments always give the same questions.

    Canvases and kinds take turns; an image has at most two questions, of different kinds. No scene of one split or seed
    occurs in another, nor in training. Search strategies on ``search`` and report on ``test``.

    Args:
        count: how many.
        seed: of the pictures.
        split: what they are for.
        model: name of the reference model that is asked; ``reference-dense`` has a task of its own.

    Raises:
        ValueError: a negative count or seed, a split that is not held out, or no such model.
    """
    if split not in ("test", "search", "validation"):
        raise ValueError(f"{split!r} is not a held-out split; those are test, search and validation")
    if count < 0:
        raise ValueError(f"count must not be negative, got {count}")
    if model not in TASKS:
        raise ValueError(f"there is no reference model {model!r}; there are {', '.join(TASKS)}")
    examples, index = list[Example](), 0
    while len(examples) < count:
        item = held_out_picture(index, seed=seed, split=split, model=model)
        image = Image.fromarray(item.image)
        for asked in _choose(TASKS[model], item, index):
            examples.append(Example(image, asked.text, asked.answer, asked.kind))
        index += 1
    return examples[:count]


def held_out_picture(
    index: int, *, seed: int, split: Literal["test", "search", "validation"], model: str = "reference"
) -> Drawn:
    """The picture behind the questions of one image of :func:`held_out`."""
    task = TASKS[model]
    return cast("Drawn", task.draw(stream(split, seed, index), task.canvases[index % len(task.canvases)]))


def _choose(task: Task, item: Drawn, index: int) -> list[Question]:
    pool = task.questions(item)
    chosen = list[Question]()
    for turn in range(len(task.kinds)):
        kind = task.kinds[(index + turn) % len(task.kinds)]
        of_kind = [q for q in pool if q.kind == kind]
        if of_kind and len(chosen) < QUESTIONS_PER_IMAGE:
            # Objects come in random order, so any rule that ignores them picks fairly.
            chosen.append(of_kind[index % len(of_kind)])
    return chosen
