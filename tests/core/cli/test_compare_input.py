"""What ``vflowopt compare`` refuses before it loads a model or writes a file."""

import json
from functools import partial

import pytest


@pytest.fixture
def complaint(refusal):
    return partial(refusal, "compare")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--method", "random", "-b", "0"], "(0, 1]"),
        (["--method", "random", "-b", "0.5", "-b", "1.5"], "(0, 1]"),
        (["--method", "random", "-b", "half"], "--budget"),
        (["--method", "random"], "--budget"),
        (["-b", "0.5"], "--method"),
        (["--method", "unheard-of", "-b", "0.5"], "unheard-of"),
        (["--method", "random@0.5", "-b", "0.5"], "--budget"),
        (["--method", "random,speed=1", "-b", "0.5"], "speed"),
        (["--method", "missing.json", "-b", "0.5"], "missing.json"),
        (["--method", "random", "-b", "0.5", "--seeds", "0"], "--seeds"),
        (["--method", "random", "-b", "0.5", "--limit", "0"], "--limit"),
    ],
)
def test_options(arguments, expected, checkpoint, data, out, complaint):
    assert expected in complaint("-m", checkpoint, "--data", data, "--out", out, *arguments)
    assert not out.exists()


def test_a_model_that_is_none(tmp_path, data, out, complaint):
    ask = ("--method", "random", "-b", "0.5", "--data", data, "--out", out)
    assert "config.json" in complaint("-m", tmp_path, *ask)
    assert not out.exists()


def test_questions_are_needed_with_answers(checkpoint, data, out, complaint):
    ask = ("-m", checkpoint, "--method", "random", "-b", "0.5", "--out", out)
    assert "--data" in complaint(*ask)
    data.write_text(json.dumps({"image": "image.png", "question": "?"}))
    assert "answers" in complaint(*ask, "--data", data)


@pytest.mark.parametrize("method", ["searched", "fitprune"])
def test_searches_and_fits_need_samples_that_are_not_reported_on(method, checkpoint, data, out, complaint):
    ask = ("-m", checkpoint, "--method", method, "-b", "0.5", "--out", out, "--data", data)
    assert "--search-data" in complaint(*ask)
    assert "missing.jsonl" in complaint(*ask, "--search-data", "missing.jsonl")


def test_a_directory_that_holds_something_else(checkpoint, data, out, complaint):
    ask = ("-m", checkpoint, "--method", "random", "-b", "0.5", "--data", data, "--out")
    out.mkdir()
    (out / "cells.jsonl").write_text("mine\n")
    assert "left alone" in complaint(*ask, out)
    assert "cannot write" in complaint(*ask, out / "cells.jsonl")
