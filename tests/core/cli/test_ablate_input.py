"""What ``vflowopt ablate`` refuses before it loads a model or writes a file."""

from functools import partial

import pytest


@pytest.fixture
def complaint(refusal):
    return partial(refusal, "ablate")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-b", "0"], "(0, 1]"),
        ([], "--budget"),
        (["-b", "0.5", "--study", "luck"], "there is no study 'luck'; there are: components, objective"),
        (["-b", "0.5", "--study", "transfer"], "--model more than once"),
        (["-b", "0.5", "--fix", "diversity"], "NAME=VALUE"),
        (["-b", "0.5", "--fix", "speed=1"], "there is no 'speed' to fix"),
        (["-b", "0.5", "--fix", "threshold=-1"], "threshold"),
        (["-b", "0.5", "--evaluation-count", "5"], "--evaluation-count 5 is less than --initial 10"),
        (["-b", "0.5", "--sample-count", "0"], "--sample-count"),
        (["-b", "0.5", "--seeds", "0"], "--seeds"),
        (["-b", "0.5"], "--search-data"),
        (["-b", "0.5", "--search-data", "missing.jsonl"], "missing.jsonl"),
    ],
)
def test_options(arguments, expected, checkpoint, data, tmp_path, complaint):
    out = tmp_path / "out"
    assert expected in complaint("-m", checkpoint, "--data", data, "--out", out, *arguments)
    assert not out.exists()


def test_a_directory_of_a_comparison_is_left_alone(checkpoint, data, tmp_path, complaint):
    from vflowopt.compare import Store

    out = tmp_path / "out"
    out.mkdir()
    Store.open(out / "cells.jsonl", {"rounds": 5}, {})
    before = (out / "cells.jsonl").read_bytes()
    ask = ("-m", checkpoint, "-b", 0.5, "--data", data, "--search-data", data, "--out", out)
    assert "choose another --out" in complaint(*ask)
    assert (out / "cells.jsonl").read_bytes() == before
