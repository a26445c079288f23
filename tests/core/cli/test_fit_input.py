"""What ``vflowopt fit`` refuses before it loads a model."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from vflowopt.cli import app


@pytest.fixture
def ask(tmp_path):
    """Options that would do."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_onevision"}))
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "images" / "0.png")
    return {
        "--model": tmp_path, "--images": tmp_path / "images", "--method": "fitprune", "--budget": 0.5,
        "--out": tmp_path / "s.json",
    }  # fmt: skip


def complaint(options):
    result = CliRunner().invoke(app, ["fit", *(str(part) for pair in options.items() for part in pair)])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("vflowopt: error: ")
    return line


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--method", "random,seed=1", "--strategy random@0.5,seed=1; methods that are fitted: fitprune"),
        ("--method", "fastv", "needs no samples"),
        ("--method", "unheard-of", "fitprune"),
        ("--method", "fitprune@0.25", "'fitprune' and --budget"),
        ("--method", "fitprune,stages=1/2", "stages"),
        ("--method", "fitprune,speed=1", "speed"),
        ("--budget", 0, "(0, 1]"),
        ("--budget", "nan", "(0, 1]"),
        ("--samples", 0, "--samples"),
        ("--out", "nowhere/s.json", "no directory"),
        ("--images", "nowhere", "nowhere"),
    ],
)
def test_options(option, value, expected, ask):
    assert expected in complaint({**ask, option: value})
    assert not ask["--out"].exists()


def test_an_adapter_that_cannot_observe(ask, monkeypatch):
    class Plain:
        name = "plain"

    monkeypatch.setattr("vflowopt.plugins.load_adapter", lambda _: Plain())
    line = complaint(ask)
    assert "'plain'" in line
    assert "received_attention()" in line
