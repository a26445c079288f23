"""What the tests of refusals are given: a directory that looks like a checkpoint, a file of questions, one line."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from vflowopt.cli import app


@pytest.fixture
def checkpoint(tmp_path):
    """A directory that looks like a checkpoint."""
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({"model_type": "llava_onevision"}))
    return directory


@pytest.fixture
def data(tmp_path):
    """A file with one question."""
    Image.new("RGB", (20, 20)).save(tmp_path / "image.png")
    path = tmp_path / "questions.jsonl"
    path.write_text(json.dumps({"image": "image.png", "question": "?", "answer": "1"}))
    return path


@pytest.fixture
def refusal():
    """Runs a command that must be refused, and returns the one line that says so."""

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        (line,) = result.stderr.strip().splitlines()
        assert line.startswith("vflowopt: error: ")
        return line

    return run
