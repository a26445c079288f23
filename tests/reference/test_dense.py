"""Dense pictures: the same from the same seed, in no two splits; answers by another rule; marks where they are."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vflowopt_reference import held_out
from vflowopt_reference.architectures import named
from vflowopt_reference.dataset import held_out_picture
from vflowopt_reference.dense.picture import CELL, Picture, cells
from vflowopt_reference.dense.questions import COUNTING, MOST, questions
from vflowopt_reference.dense.task import Dense
from vflowopt_reference.dense.words import PLURALS, VOCABULARY
from vflowopt_reference.processor import ReferenceProcessor
from vflowopt_reference.seeds import SPLITS, stream
from vflowopt_reference.task import IGNORE
from vflowopt_reference.training.examples import make_batch, words
from vflowopt_reference.training.export import export
from vflowopt_reference.training.phases import phase_batch
from vflowopt_reference.training.start import start
from vflowopt_reference.vocabulary import COLORS, DIGITS, SHAPES
from vflowopt_reference.vocabulary import VOCABULARY as SCENES

TASK = Dense()
ARCHITECTURE = named("reference-dense")


def pictures(count: int, seed: int = 3) -> list[Picture]:
    sizes = TASK.canvases
    return [TASK.draw(stream("validation", seed, k), sizes[k % len(sizes)]) for k in range(count)]


def solve(picture: Picture, text: str) -> str:
    """Answers a question from its words alone, by rules of its own."""
    asked = text.rstrip("?").split()
    if text.startswith("how many"):
        return str(sum(asked[2] in (o.color, o.shape, o.shape + "s", o.shape + "es") for o in picture.items))
    if "highest" in asked:
        (bar,) = (o for o in picture.items if all(o.row < other.row for other in picture.items if other is not o))
        return bar.color
    if "color" in asked:
        (bar,) = (o for o in picture.items if o.digits == asked[-1])
        return bar.color
    (hit,) = (o for o in picture.items if o.color in asked and (not o.shape or o.shape in asked))
    return " ".join(hit.digits)


def test_the_same_seed_gives_the_same_examples() -> None:
    def digests(count: int, seed: int = 0) -> list[str]:
        found = held_out(count, seed=seed, model="reference-dense")
        return [hashlib.sha256(e.image.tobytes() + e.question.encode()).hexdigest() for e in found]

    assert digests(20) == digests(20)
    assert digests(21)[:7] == digests(7)
    assert not set(digests(20)) & set(digests(20, seed=1))


def test_splits_and_seeds_share_no_picture() -> None:
    seen: dict[str, str] = {}
    for split in SPLITS:
        for seed in range(2):
            for index in range(12):
                name = f"{split}/{seed}/{index}"
                pixels = TASK.draw(stream(split, seed, index), (112, 112)).image.tobytes()
                assert seen.setdefault(hashlib.sha256(pixels).hexdigest(), name) == name


def test_every_question_is_well_posed_and_answered_right() -> None:
    kinds = set()
    for picture in pictures(60):
        for asked in questions(picture):
            assert solve(picture, asked.text) == asked.answer
            assert {*words(asked.text), *asked.answer.split()} <= VOCABULARY.keys()
            kinds.add(asked.kind)
    assert kinds == {*TASK.kinds, *COUNTING}


def test_counts_go_up_to_the_most() -> None:
    counts = {int(q.answer) for p in pictures(60) for q in questions(p) if q.kind in COUNTING}
    assert counts == set(range(MOST + 1))


def test_held_out_examples_belong_to_their_pictures() -> None:
    examples, index = held_out(60, seed=5, split="search", model="reference-dense"), 0
    assert {e.kind for e in examples} == set(TASK.kinds)
    while examples:
        picture = held_out_picture(index, seed=5, split="search", model="reference-dense")
        assert isinstance(picture, Picture)
        mine = [e for e in examples[:2] if np.array_equal(np.asarray(e.image), picture.image)]
        assert len({e.kind for e in mine}) == len(mine) > 0
        assert all(solve(picture, e.question) == e.answer for e in mine)
        examples, index = examples[len(mine) :], index + 1


def test_pictures_are_dense() -> None:
    """Items without bars below them: a fifth of the cells and more; no two alike in colour and shape."""
    shown = Counter[str]()
    for picture in pictures(60):
        rows, columns = cells(picture.canvas)
        assert picture.image.shape == (CELL * rows, CELL * columns, 3)
        assert len({(o.color, o.shape) for o in picture.items}) == len(picture.items)
        assert len({(m.row, m.column) for m in picture.marks}) == len(picture.marks)
        assert all(0 <= m.row < rows and 0 <= m.column < columns for m in picture.marks)
        assert len(picture.marks) >= rows * columns // 5
        shown[picture.page] += 1
    assert min(shown[page] for page in ("crowd", "chart", "ledger")) >= 8


def test_marks_show_their_colors() -> None:
    for picture in pictures(40):
        for mark in picture.marks:
            cell = picture.image[CELL * mark.row :, CELL * mark.column :][:CELL, :CELL].astype(float)
            if mark.color is None or (picture.page == "ledger" and mark.digit is not None):
                continue
            # Below the bar's edge and beside the digit.
            median = np.median(
                cell[10:13, 5:11].reshape(-1, 3) if picture.page == "chart" else cell[3:13, 3:13].reshape(-1, 3), axis=0
            )
            nearest = min(COLORS, key=lambda c: float(np.abs(median - np.asarray(COLORS[c])).sum()))
            assert nearest == mark.color, (picture.page, mark)


def test_bars_end_where_the_axis_says() -> None:
    for picture in (p for p in pictures(60) if p.page == "chart"):
        axis = {m.row: m.digit for m in picture.marks if m.column == 0}
        for bar in picture.items:
            column = picture.image[:, CELL * bar.column + 6 : CELL * bar.column + 10].astype(float).mean(1)
            ink = column[-3:].mean(0)
            top = int(np.argmax(np.abs(column - ink).sum(1) < 40))
            assert axis[top // CELL] == bar.digits


def test_digits_of_ledgers_are_dark() -> None:
    for picture in (p for p in pictures(40) if p.page == "ledger"):
        for mark in (m for m in picture.marks if m.digit is not None):
            cell = picture.image[CELL * mark.row :, CELL * mark.column :][:CELL, :CELL]
            assert cell.min() < 80


def test_labels_name_the_marks() -> None:
    for picture in pictures(20):
        rows, columns = cells(picture.canvas)
        (labels,) = TASK.labels(ARCHITECTURE, picture)
        assert labels.shape == (rows * columns, 3)
        told = {(m.row, m.column): m for m in picture.marks}
        for place, (color, shape, digit) in enumerate(labels.tolist()):
            mark = told.get(divmod(place, columns))
            assert (mark.color if mark else None) == (tuple(COLORS)[color - 1] if color else None)
            assert (mark.shape if mark else None) == (SHAPES[shape - 1] if shape else None)
            if digit == IGNORE:
                assert mark is not None
                assert mark.unasked
            else:
                assert (mark.digit if mark else None) == (DIGITS[digit - 1] if digit else None)


def test_words_of_scenes_keep_their_ids_and_plurals_are_english() -> None:
    assert list(VOCABULARY.items())[: len(SCENES)] == list(SCENES.items())
    assert list(VOCABULARY.values()) == list(range(len(VOCABULARY)))
    assert set(PLURALS) == {"circles", "squares", "triangles", "diamonds", "crosses", "stars"}


@pytest.mark.parametrize("canvas", TASK.canvases)
def test_a_visual_token_is_a_cell(canvas: tuple[int, int], tmp_path: Path) -> None:
    processor = ReferenceProcessor.load(export(ARCHITECTURE, ARCHITECTURE.build(), tmp_path))
    picture = TASK.draw(stream("validation", 0, 1), canvas)
    batch = make_batch(ARCHITECTURE, "validation", 0, 1, 1, canvas, 4)
    asked = questions(picture)[0].text
    inputs = processor(images=[Image.fromarray(picture.image)], text=[processor.prompt(asked)])
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == np.prod(cells(canvas))
    assert processor.tokenizer.unk_token_id not in inputs["input_ids"]
    assert batch.pixels.shape == (1, 1, 3, *canvas)


def test_the_training_starts_from_shipped_weights() -> None:
    from vflowopt_reference import load_model

    model = ARCHITECTURE.build(seed=0)
    start(ARCHITECTURE, model, 0, 1)
    found, shipped = model.state_dict(), load_model("reference-qwen2vl").state_dict()
    assert found.keys() == shipped.keys()
    known = len(SCENES)
    for name, value in shipped.items():
        assert torch.equal(found[name][:known] if value.shape[0] == known else found[name], value)
    table = model.get_input_embeddings().weight
    for plural, singular in PLURALS.items():
        assert torch.equal(table[VOCABULARY[plural]], table[VOCABULARY[singular]])


def test_kinds_that_a_phase_leaves_out_are_not_asked() -> None:
    assert [phase.name for phase in ARCHITECTURE.phases if phase.left_out == COUNTING] == ["finish"]
    for phase in ARCHITECTURE.phases[1:]:
        asked = {
            kind for step in range(2) for row in phase_batch(ARCHITECTURE, phase, 0, step).asked for kind, _ in row
        }
        assert bool(asked & COUNTING) == (phase.name != "finish")
        assert "digit_by_both" in asked
