"""Searches and comparisons that are killed at many moments: what was finished is there, and is not done again."""

import json
import os
import random
import signal
import sys

import pytest

from support.command_line import invoke, needs_fork

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow, needs_fork]


def calls(*arguments, last=None):
    """Run a command and count what it calls, Python and C; the process is killed at call number ``last``."""
    made = 0

    def count(_frame, event, _argument):
        nonlocal made
        made += event in {"call", "c_call"}
        if made == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(count)
    try:
        invoke(*arguments)
    finally:
        sys.setprofile(None)
    return made


def killed(moment, *arguments):
    """Run a command in a copy of this process, and kill it at a call; whether it was still running."""
    child = os.fork()
    if child == 0:
        try:
            calls(*arguments, last=moment)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def lines(path):
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def moments(count, calls):
    """One in every part of the command, counted in calls: where it is killed does not depend on the machine's speed."""
    rng = random.Random(0)
    return [int((part + rng.random()) * calls / count) for part in range(count)]


def test_a_search_killed_at_25_moments_loses_nothing(model, images, tmp_path):
    search = (
        "optimize", "-m", model, "--budget", 0.5, "--images", images, "--prompt", "w7 w8", "--initial", 6,
        "--iterations", 4, "--out",
    )  # fmt: skip
    invoke(*search, tmp_path / "whole.json")
    whole = (tmp_path / "whole.json").read_bytes()
    history = [json.loads(line)["score"] for line in lines(tmp_path / "whole.journal.jsonl").splitlines()[1:]]
    found = set()
    for number, moment in enumerate(moments(25, calls(*search, tmp_path / "again.json"))):
        out = tmp_path / str(number) / "found.json"
        out.parent.mkdir()
        journal = out.with_name("found.journal.jsonl")
        assert killed(moment, *search, out)
        before = lines(journal)
        found.add(before.count(b"\n"))
        invoke(*search, out)
        assert lines(journal).startswith(before)
        assert [json.loads(line)["score"] for line in lines(journal).splitlines()[1:]] == history
        assert out.read_bytes() == whole
        assert sorted(path.name for path in out.parent.iterdir()) == ["found.journal.jsonl", "found.json"]
    assert len(found) >= 5  # at different stages of the search


def test_a_comparison_killed_at_5_moments_loses_nothing(model, images, tmp_path):
    line = {"image": str(images / "0.png"), "question": "w7", "answers": ["w9"]}
    (tmp_path / "questions.jsonl").write_text(json.dumps(line) + "\n")
    compare = (
        "compare", "-m", model, "--method", "random", "--method", "searched", "-b", 0.6, "-b", 0.5, "--seeds", 2,
        "--data", tmp_path / "questions.jsonl", "--search-data", tmp_path / "questions.jsonl", "--samples", 1,
        "--initial", 2, "--iterations", 1, "--no-latency", "--out",
    )  # fmt: skip
    invoke(*compare, tmp_path / "whole")
    whole = (tmp_path / "whole" / "compare.csv").read_bytes()
    for number, moment in enumerate(moments(5, calls(*compare, tmp_path / "again"))):
        out = tmp_path / str(number)
        assert killed(moment, *compare, out)
        before = lines(out / "cells.jsonl")
        invoke(*compare, out)
        assert lines(out / "cells.jsonl").startswith(before)
        assert (out / "compare.csv").read_bytes() == whole
        assert list(out.rglob("*.part")) == []
