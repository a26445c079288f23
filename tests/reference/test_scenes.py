"""Scenes and questions: the same from the same seed, well-posed, answered right, and never shared between splits."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from vflowopt_reference import KINDS, Example, held_out
from vflowopt_reference.canvases import CANVASES
from vflowopt_reference.dataset import held_out_picture
from vflowopt_reference.geometry import PATCH, VIEW, margins
from vflowopt_reference.questions import DESCRIBE, questions
from vflowopt_reference.scene import JITTER, SPACING, Object, scene
from vflowopt_reference.seeds import SPLITS, stream


def digest(example: Example) -> str:
    return hashlib.sha256(example.image.tobytes() + example.question.encode()).hexdigest()


def test_the_same_seed_gives_the_same_examples() -> None:
    assert [digest(e) for e in held_out(30)] == [digest(e) for e in held_out(30)]


def test_a_longer_list_begins_with_the_shorter_one() -> None:
    assert [digest(e) for e in held_out(31)][:7] == [digest(e) for e in held_out(7)]


def test_splits_and_seeds_share_no_scene() -> None:
    seen: dict[str, str] = {}
    for split in SPLITS:
        for seed in range(3):
            for index in range(12):
                name = f"{split}/{seed}/{index}"
                pixels = scene(stream(split, seed, index), (112, 112)).image.tobytes()
                assert seen.setdefault(hashlib.sha256(pixels).hexdigest(), name) == name


@pytest.mark.parametrize("canvas", CANVASES)
def test_objects_keep_apart_and_clear_of_borders_and_seams(canvas: tuple[int, int]) -> None:
    top, left = margins(canvas)
    for index in range(20):
        item = scene(stream("validation", 7, index), canvas)
        assert item.image.shape == (*canvas, 3)
        assert item.image.dtype == np.uint8
        assert 2 <= len(item.objects) <= 7
        for k, o in enumerate(item.objects):
            clear = 2 * PATCH - JITTER
            for place, side, margin in ((o.y, canvas[0], top), (o.x, canvas[1], left)):
                assert clear <= place <= side - clear
                assert clear <= (place + margin) % VIEW <= VIEW - clear
            for other in item.objects[:k]:
                assert np.hypot(o.x - other.x, o.y - other.y) >= SPACING
                assert (o.color, o.shape) != (other.color, other.shape)


def solve(objects: tuple[Object, ...], text: str) -> str:
    """Answers a question from its words alone, by a rule of its own; fails unless exactly one object fits."""
    asked = set(text.rstrip("?.").split())
    colors = {o.color for o in objects} & asked
    shapes = {o.shape for o in objects} & asked
    (hit,) = (o for o in objects if (not colors or o.color in colors) and (not shapes or o.shape in shapes))
    assert colors or shapes
    if text.startswith("describe"):
        return f"{hit.shape} {hit.digit}"
    return str(getattr(hit, text.split()[1]))


@pytest.mark.parametrize("canvas", [(112, 112), (176, 112), (224, 336)])
def test_every_question_is_well_posed_and_answered_right(canvas: tuple[int, int]) -> None:
    kinds = set()
    for index in range(60):
        item = scene(stream("validation", 3, index), canvas)
        for asked in questions(item.objects):
            assert solve(item.objects, asked.text) == asked.answer
            kinds.add(asked.kind)
    assert kinds == {*KINDS, DESCRIBE}


def test_held_out_examples_belong_to_their_scenes() -> None:
    examples, index = held_out(80, seed=5, split="search"), 0
    while examples:
        item = held_out_picture(index, seed=5, split="search")
        mine = [e for e in examples[:2] if np.array_equal(np.asarray(e.image), item.image)]
        assert len({e.kind for e in mine}) == len(mine) > 0
        assert all(solve(item.objects, e.question) == e.answer for e in mine)
        examples, index = examples[len(mine) :], index + 1


def test_kinds_and_canvases_are_balanced() -> None:
    examples = held_out(360)
    for kind in KINDS:
        assert 50 <= sum(e.kind == kind for e in examples) <= 100
    assert {e.image.size[::-1] for e in examples} == set(CANVASES)


def test_wrong_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'train' is not a held-out split"):
        held_out(3, split="train")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="negative"):
        held_out(-1)
    with pytest.raises(ValueError, match="multiples of 16"):
        scene(stream("test", 0, 0), (100, 100))
    with pytest.raises(ValueError, match="no such split"):
        stream("dev", 0, 0)  # type: ignore[arg-type]


def test_objects_show_their_colors() -> None:
    from vflowopt_reference.vocabulary import COLORS

    for index in range(20):
        item = scene(stream("validation", 4, index), (224, 224))
        for number, o in enumerate(item.objects, 1):
            median = np.median(item.image[item.owner == number], axis=0)
            nearest = min(COLORS, key=lambda c: float(np.abs(median - np.asarray(COLORS[c])).sum()))
            assert nearest == o.color


def test_importing_the_package_loads_neither_torch_nor_transformers() -> None:
    code = "import sys, vflowopt_reference; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_images_are_rgb() -> None:
    assert all(isinstance(e.image, Image.Image) and e.image.mode == "RGB" for e in held_out(9))


def test_a_model_without_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="no reference model 'other'; there are reference, reference-next"):
        held_out(1, model="other")
