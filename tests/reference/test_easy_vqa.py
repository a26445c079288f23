"""Questions of easy-VQA as `vflowopt evaluate` reads them, from a hand-made package of its form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from vflowopt.cli import app
from vflowopt_reference.easy_vqa import CHOICES, main

ASKED = [
    ("what color is the circle?", "red", 0),
    ("what color is the shape?", "red", 0),
    ("what color is the triangle?", "teal", 1),
    ("is there a red shape?", "yes", 0),
]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its two functions that are used, and two pictures."""
    for number, color in enumerate(("red", "teal")):
        Image.new("RGB", (64, 64), color).save(tmp_path / f"{number}.png")
    (tmp_path / "easy_vqa.py").write_text(
        f"def get_test_questions():\n    return tuple(map(list, zip(*{ASKED!r})))\n"
        f"def get_test_image_paths():\n    return {{k: {str(tmp_path)!r} + f'/{{k}}.png' for k in (0, 1)}}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "easy_vqa", raising=False)
    return tmp_path


@pytest.mark.parametrize(("choice", "kept"), [("trained", [0]), ("known", [0, 1]), ("all", [0, 1, 2, 3])])
def test_a_choice_of_questions_is_written(choice: str, kept: list[int], package: Path) -> None:
    out = package / "questions.jsonl"
    main(["--out", str(out), "--questions", choice])
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(f["question"], f["answers"]) for f in found] == [(ASKED[k][0], [ASKED[k][1]]) for k in kept]
    assert [Path(f["image"]).name for f in found] == [f"{ASKED[k][2]}.png" for k in kept]
    assert choice in CHOICES


def test_evaluate_reads_what_is_written(package: Path) -> None:
    out = package / "questions.jsonl"
    main(["--out", str(out), "--questions", "known"])
    result = CliRunner().invoke(app, ["evaluate", "-m", "reference", "-s", "random@0.5", "--data", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert [row["questions"] for row in json.loads(result.stdout)] == [2, 2]


def test_without_the_package_the_command_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "easy_vqa", None)
    with pytest.raises(SystemExit, match="2"):
        main(["--out", str(tmp_path / "none.jsonl")])
    assert "pip install easy-vqa" in capsys.readouterr().err
    assert not (tmp_path / "none.jsonl").exists()
