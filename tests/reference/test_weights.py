"""The shipped weights: ordinary files, small, and they really see."""

from __future__ import annotations

import pytest

from support.repeats import repeats
from vflowopt_reference import NAMES, held_out, load_model, load_processor, path
from vflowopt_reference.architectures import named
from vflowopt_reference.curve import curve
from vflowopt_reference.evaluate import accuracy, answers

FLOOR = 0.9
"""Well below the published accuracy, well above what can be guessed (about 0.12)."""


every_model = pytest.mark.parametrize("name", NAMES)


@every_model
def test_plain_from_pretrained_finds_every_key(name: str) -> None:
    _, info = named(name).model_class.from_pretrained(path(name), output_loading_info=True)
    assert not any(info[problem] for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@every_model
def test_weights_are_small(name: str) -> None:
    assert sum(file.stat().st_size for file in path(name).iterdir()) <= 10_000_000


@every_model
def test_generation_stops_by_itself(name: str) -> None:
    config = load_model(name).generation_config
    assert config.eos_token_id is not None
    assert config.pad_token_id is not None


@pytest.mark.parametrize("name", ["reference", *repeats(*(name for name in NAMES if name != "reference"))])
@pytest.mark.parametrize("count", [16, pytest.param(60, marks=pytest.mark.slow)])
def test_held_out_questions_are_answered(count: int, name: str) -> None:
    counts = accuracy(load_model(name), load_processor(name), held_out(count, seed=1, model=name))
    right, asked = (sum(c[i] for c in counts.values()) for i in (0, 1))
    assert asked == count
    assert right / asked >= FLOOR


def test_answers_of_two_words() -> None:
    example = next(e for e in held_out(60) if e.kind == "shape_by_color" and e.image.size == (112, 112))
    color = example.question.split()[4]
    asked = type(example)(example.image, f"describe the {color} object.", example.answer, "describe_by_color")
    (said,) = answers(load_model(), load_processor(), [asked], new_tokens=4)
    assert said.split()[0] == example.answer
    assert said.split()[1].isdigit()


@pytest.mark.parametrize("count", [16, pytest.param(40, marks=pytest.mark.slow)])
def test_fewer_visual_tokens_cost_accuracy(count: int) -> None:
    model = load_model(attn_implementation={"vision_config": "eager", "text_config": "sdpa"})
    result = curve(model, load_processor(), held_out(count, seed=2), (0.1,))
    assert result["blind"][0.0] < 0.35
    assert result["random"][0.1] < result["unpruned"][1.0]
    assert result["unpruned"][1.0] >= FLOOR - 0.05
