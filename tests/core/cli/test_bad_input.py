"""Bad input that needs no model to be recognised: exit code 2, one line on standard error, no traceback."""

import json

import pytest
from typer.testing import CliRunner

from vflowopt.cli import app
from vflowopt.plugins import discover


def complaint(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("vflowopt: error: ")
    return lines[0]


@pytest.fixture
def checkpoint(tmp_path):
    """A directory that looks like a checkpoint of a given family."""

    def make(model_type):
        directory = tmp_path / model_type
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
        return directory

    return make


@pytest.fixture
def image(tmp_path):
    from PIL import Image

    path = tmp_path / "image.png"
    Image.new("RGB", (20, 20)).save(path)
    return path


@pytest.mark.parametrize("budget", ["0", "-0.1", "1.5", "nan"])
def test_budgets_lie_between_0_and_1(budget, tmp_path):
    line = complaint("optimize", "-m", "nowhere", "--budget", budget, "--out", tmp_path / "s.json")
    assert "(0, 1]" in line


@pytest.mark.parametrize("command", ["optimize", "evaluate", "run", "show"])
def test_an_unknown_family_is_named(command, checkpoint, image, tmp_path):
    options = {
        "optimize": ["--budget", "0.5", "--images", image.parent, "--out", tmp_path / "s.json"],
        "evaluate": ["-s", "random@0.5"],
        "run": ["-i", image, "-p", "?", "-s", "random@0.5"],
        "show": ["-i", image, "-p", "?", "-s", "random@0.5", "--out", tmp_path / "p.png"],
    }
    assert "'bert'" in complaint(command, "-m", checkpoint("bert"), *options[command])


def test_a_missing_adapter_says_what_to_install(checkpoint, monkeypatch, image):
    monkeypatch.setattr("vflowopt.cli.models.installed", lambda: discover([]))
    line = complaint("run", "-m", checkpoint("llava_onevision"), "-i", image, "-p", "?", "-s", "random@0.5")
    assert "pip install vflowopt-hf" in line


def test_a_model_that_is_nowhere_lists_the_named_ones(image, monkeypatch):
    monkeypatch.setattr("vflowopt.cli.models.installed", lambda: discover([]))
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    line = complaint("run", "-m", "no/such-model", "-i", image, "-p", "?", "-s", "random@0.5")
    assert "'no/such-model'" in line
    assert "pip install vflowopt-hf" in line


def test_a_directory_without_configuration_is_no_checkpoint(tmp_path, image):
    assert "config.json" in complaint("run", "-m", tmp_path, "-i", image, "-p", "?", "-s", "random@0.5")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("not JSON", "not a vflowopt/strategy/1 strategy"),
        ('{"format": "other"}', "format"),
        ('{"format": "vflowopt/strategy/1", "scorer": {"name": "unheard-of"}}', "unheard-of"),
    ],
)
def test_corrupt_and_foreign_strategy_files_are_refused(text, expected, tmp_path, image, checkpoint):
    file = tmp_path / "strategy.json"
    file.write_text(text)
    line = complaint("run", "-m", checkpoint("llava_onevision"), "-i", image, "-p", "?", "-s", file)
    assert "strategy.json" in line
    assert expected in line


@pytest.mark.parametrize(
    ("specification", "expected"),
    [
        ("missing.json", "missing.json"),
        ("preset:unknown", "llava-onevision-7b/25"),
        ("unheard-of@0.25", "mean-attention"),
        ("random@2", "(0, 1]"),
        ("random@", "for example 0.25; got ''"),
        ("random@25%", "for example 0.25; got '25%'"),
        ("random@0.25,mass=1,mass=0", "mass is given twice, as '1' and as '0'"),
        ("fastv@0.5,stages=", "for example stages=0/9/18, not ''"),
        ("random@0.25,seed", "OPTION=VALUE"),
        ("random@0.25,seed=-1", "seed"),
        ("random@0.25,speed=1", "random has no option 'speed'; it has: seed; beside these there are: cell, mass"),
        ("divprune@0.25,gamma=1", "divprune has no option 'gamma'; it has: none; beside"),
        ("divprune@0.25,stages=0/4", "or with rescorer="),
        ("calibrated-attention@0.25,cell=0.5", "cell"),
    ],
)
def test_a_wrong_specification_says_what_is_wrong(specification, expected, image):
    assert expected in complaint("run", "-m", "nowhere", "-i", image, "-p", "?", "-s", specification)


def test_unreadable_images_are_named(tmp_path, checkpoint):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    directory = checkpoint("llava_onevision")
    for path in (broken, tmp_path / "missing.png"):
        assert path.name in complaint("run", "-m", directory, "-i", path, "-p", "?", "-s", "random@0.5")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: None, "there is no video"),
        (lambda path: path.mkdir(), "no frames"),
        (lambda path: path.with_suffix(".gif").write_bytes(b"GIF89a, but no more"), "cannot read"),
        (lambda path: path.with_suffix(".npy").write_bytes(b"nonsense"), "cannot read"),
        (lambda path: path.with_suffix(".mp4").write_bytes(b"nonsense"), "clip.mp4"),
    ],
)
@pytest.mark.parametrize("command", ["run", "show", "optimize", "evaluate"])
def test_unreadable_videos_are_named_before_a_model_is_loaded(command, make, expected, tmp_path, checkpoint):
    make(tmp_path / "clip")
    (path,) = list(tmp_path.glob("clip*")) or [tmp_path / "clip"]
    (tmp_path / "q.jsonl").write_text(json.dumps({"video": path.name, "question": "?", "answer": "1"}))
    options = {
        "run": ["-v", path, "-p", "?", "-s", "random@0.5"],
        "show": ["-v", path, "-p", "?", "-s", "random@0.5", "--out", tmp_path / "p.png"],
        "optimize": ["-v", path, "--budget", "0.5", "--out", tmp_path / "s.json"],
        "evaluate": ["--data", tmp_path / "q.jsonl", "-s", "random@0.5"],
    }
    line = complaint(command, "-m", checkpoint("llava_onevision"), *options[command])
    assert expected in line
    assert path.name in line


@pytest.mark.parametrize("frames", ["0", "-3", "many"])
def test_a_video_has_at_least_one_frame(frames, tmp_path):
    line = complaint("run", "-m", "x", "-v", tmp_path, "--frames", frames, "-p", "?", "-s", "random@0.5")
    assert "--frames" in line


@pytest.mark.parametrize("command", ["run", "show"])
def test_a_question_is_about_something(command, tmp_path, checkpoint):
    options = ["--out", tmp_path / "p.png"] if command == "show" else []
    line = complaint(command, "-m", checkpoint("llava_onevision"), "-p", "?", "-s", "random@0.5", *options)
    assert "--image or --video" in line


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", "empty"),
        ('{"question": "?", "answer": "1"}', "line 1"),
        ('{"image": [], "video": [], "question": "?", "answer": "1"}', "line 1"),
        ('{"video": {"path": "x"}, "question": "?", "answer": "1"}', "line 1"),
        ('{"image": "image.png", "question": "?", "answers": "1"}', "line 1"),
        ("nonsense", "line 1"),
        ('{"image": "image.png"}', "question"),
        ('{"image": "missing.png", "question": "?", "answers": ["1"]}', "missing.png"),
        ('{"image": 3, "question": "?"}', "line 1"),
        ('{"image": "image.png", "question": "?"}', "answers"),
    ],
)
def test_a_wrong_line_of_questions_is_named(lines, expected, tmp_path, image, checkpoint):
    data = tmp_path / "questions.jsonl"
    data.write_text(lines)
    line = complaint("evaluate", "-m", checkpoint("llava_onevision"), "--data", data, "-s", "random@0.5")
    assert expected in line


def test_an_empty_directory_is_an_empty_sample_set(tmp_path, checkpoint):
    empty = tmp_path / "empty"
    empty.mkdir()
    arguments = ("optimize", "-m", checkpoint("llava_onevision"), "--budget", "0.5", "--out", tmp_path / "s.json")
    assert "empty" in complaint(*arguments, "--images", empty)
    assert "brings no examples" in complaint(*arguments)


def test_a_file_that_is_no_journal_is_refused_before_anything_is_loaded(tmp_path):
    journal = tmp_path / "journal.jsonl"
    journal.write_text("no journal\n")
    line = complaint("optimize", "-m", "x", "--budget", "0.5", "--out", tmp_path / "s.json", "--journal", journal)
    assert "journal.jsonl" in line


def test_output_needs_a_directory(tmp_path, checkpoint, image):
    out = tmp_path / "missing" / "file"
    assert "no directory" in complaint("optimize", "-m", "x", "--budget", "0.5", "--out", out)
    assert "no directory" in complaint("show", "-m", "x", "-i", image, "-p", "?", "-s", "random@0.5", "--out", out)


@pytest.mark.parametrize("arguments", [["frobnicate"], ["run"], ["optimize", "--budget", "much"], ["bench"]])
def test_wrong_usage_is_one_line_too(arguments):
    complaint(*arguments)


@pytest.mark.parametrize("stages", ["first", "", "0,,9", "9,0", "0,0", "-1", "1.5"])
def test_wrong_stages_are_named(stages, tmp_path):
    line = complaint("optimize", "-m", "x", "--budget", "0.5", "--stages", stages, "--out", tmp_path / "s.json")
    assert f"separated by commas, for example 0 or 0,9,18; got {stages!r}" in line


def test_wrong_budgets_of_bench_are_named():
    assert "1.5" in complaint("bench", "--shape", "mid", "--budgets", "0.5,1.5")


@pytest.mark.parametrize("option", ["--frobnicate", "-x"])
def test_wrong_options_before_the_command_are_one_line_too(option):
    assert option in complaint(option)


def test_a_loop_of_links_is_no_journal(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    out = tmp_path / "s.json"
    assert "loop" in complaint("optimize", "-m", "x", "--budget", "0.5", "--out", out, "--journal", loop)
    assert "another file" in complaint("optimize", "-m", "x", "--budget", "0.5", "--out", out, "--journal", out)
