"""The journal: a killed search resumes to the same bits, and no other search touches it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.search.synthetic import Sampled, Synthetic, grid
from vflowopt.errors import JournalError
from vflowopt.search import random_search, search
from vflowopt.search.journal import FORMAT, Journal, JournalBeside, check_journal
from vflowopt.search.race import Heat
from vflowopt.search.result import HistoryEntry

TESTS = Path(__file__).parents[2]
OPTIONS = {"iterations": 4, "initial": 6, "seed": 3}


def run(path, evaluator=None, **changes):
    return search(evaluator or Synthetic(noise=0.1), journal=path, **{"budget": 0.25, **OPTIONS, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("journal") / "run.jsonl"
    return run(path), path.read_bytes()


def test_the_file_holds_one_line_per_evaluation(finished):
    result, content = finished
    header, *lines = map(json.loads, content.splitlines())
    assert header["format"] == FORMAT
    assert [HistoryEntry.from_json(line) for line in lines] == list(result.history)


def test_a_journal_changes_nothing(finished):
    assert run(None).history == finished[0].history


def cuts():
    """Cut after each line, at its first byte, in its middle, and before its newline; the first line is the header."""
    return [(line, where) for line in range(11) for where in ("start", "middle", "newline", "end")]


@pytest.mark.parametrize(("line", "where"), cuts())
def test_resumes_bit_for_bit_after_a_cut_anywhere(finished, tmp_path, line, where):
    result, content = finished
    lines = content.splitlines(keepends=True)
    before, cut = b"".join(lines[:line]), lines[line]
    part = {"start": b"", "middle": cut[: len(cut) // 2], "newline": cut[:-1], "end": cut}[where]
    path = tmp_path / "run.jsonl"
    path.write_bytes(before + part)
    evaluator = Synthetic(noise=0.1)
    resumed = run(path, evaluator)
    assert resumed.history == result.history
    assert [entry.unit for entry in resumed.history] == [entry.unit for entry in result.history]
    kept = line + (where == "end") - 1  # without the header
    assert len(evaluator.calls) == len(lines) - 1 - max(kept, 0)
    assert bool(resumed.notes) == (where in ("middle", "newline") and line > 0)
    assert [HistoryEntry.from_json(json.loads(row)) for row in path.read_bytes().splitlines()[1:]] == list(
        result.history
    )


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    path = tmp_path_factory.mktemp("raced") / "run.jsonl"
    return run(path, Sampled(samples=12, noise=0.3), budget=[0.5, 0.25]), path.read_bytes()


def test_heats_are_lines_of_their_own(raced):
    result, content = raced
    lines = list(map(json.loads, content.splitlines()[1:]))
    heats = [Heat.from_json(line) for line in lines if "heat" in line]
    assert tuple(heats) == result.heats
    assert [HistoryEntry.from_json(line) for line in lines if "heat" not in line] == list(result.history)
    assert all("heat" in line for line in lines[len(result.history) :])
    assert all(len(heat.similarities) == heat.last - heat.first for heat in heats)


@pytest.mark.parametrize("lost", [1, 3, 1000])
def test_a_race_resumes_where_it_ended(raced, tmp_path, lost):
    result, content = raced
    lines, heats = content.splitlines(keepends=True), len(result.heats)
    kept = max(len(lines) - lost, len(lines) - heats)
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(lines[:kept]) + lines[-1][:5])
    evaluator = Sampled(samples=12, noise=0.3)
    resumed = run(path, evaluator, budget=[0.5, 0.25])
    assert (resumed.history, resumed.selected, resumed.front) == (result.history, result.selected, result.front)
    assert len(evaluator.asked) == len(lines) - kept
    assert path.read_bytes().count(b"\n") == len(lines)


def test_a_search_that_goes_on_after_a_race_races_anew(raced, tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(raced[1])
    longer = run(path, Sampled(samples=12, noise=0.3), budget=[0.5, 0.25], iterations=6)
    assert longer.history[:10] == raced[0].history
    assert longer.selected == run(None, Sampled(samples=12, noise=0.3), budget=[0.5, 0.25], iterations=6).selected
    again = run(path, Sampled(samples=12, noise=0.3), budget=[0.5, 0.25])
    assert (again.history, again.selected) == (raced[0].history, raced[0].selected)


CHILD = """
import sys
from core.search.synthetic import Synthetic
from vflowopt.search import search
search(Synthetic(noise=0.1, pause=0.15), 0.25, journal=sys.argv[1], iterations=4, initial=6, seed=3)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_survives_kill_9(finished, tmp_path):
    path = tmp_path / "run.jsonl"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
    )
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < 4:
        assert child.poll() is None, "the search ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill()
    child.wait()
    lines = path.read_bytes().count(b"\n")
    assert 4 <= lines < 11
    evaluator = Synthetic(noise=0.1)
    assert run(path, evaluator).history == finished[0].history
    assert len(evaluator.calls) == 11 - lines


def test_a_longer_run_continues_and_a_shorter_one_reads(finished, tmp_path):
    result, content = finished
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    evaluator = Synthetic(noise=0.1)
    longer = run(path, evaluator, iterations=6)
    assert longer.history[:10] == result.history
    assert len(evaluator.calls) == 2
    assert longer.history == run(None, iterations=6).history
    assert run(path, evaluator, iterations=1).history == result.history[:7]
    assert len(evaluator.calls) == 2


@pytest.mark.parametrize(
    ("name", "evaluator", "changes"),
    [
        ("fingerprint", Synthetic(fingerprint="other"), {}),
        ("objective", Synthetic(), {"objective": "first-token"}),
        ("num_layers", Synthetic(num_layers=12), {}),
        ("stages", Synthetic(), {"stages": [0, 3]}),
        ("fresh", Sampled(samples=12), {"fresh": 2}),
        ("max_cell", Synthetic(units=[[grid(14, 14)], [grid(14, 18)]]), {}),
        ("seed", Synthetic(), {"seed": 4}),
        ("initial", Synthetic(), {"initial": 7}),
        ("starts", Synthetic(), {"starts": ()}),
    ],
)
def test_another_search_is_refused_before_any_evaluation(finished, tmp_path, name, evaluator, changes):
    path = tmp_path / "run.jsonl"
    path.write_bytes(finished[1])
    with pytest.raises(JournalError, match=f"its {name} is"):
        run(path, evaluator, **changes)
    assert evaluator.calls == []
    assert path.read_bytes() == finished[1]


def test_another_budget_or_method_is_refused(finished, tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(finished[1])
    with pytest.raises(JournalError, match=r"other budgets: its budgets is \[0\.25\], this search's is \[0\.5\]"):
        search(Synthetic(), 0.5, journal=path, **OPTIONS)
    with pytest.raises(JournalError, match="another search method"):
        random_search(Synthetic(), 0.25, evaluations=3, seed=3, journal=path)
    assert path.read_bytes() == finished[1]


@pytest.mark.parametrize(
    "content",
    [
        b"my notes",
        b"my notes\n",
        b"{}\n",
        b"[1]\n",
        b'{"format": "vflowopt/strategy/1"}\n',
        b"\xff\xfe\n",
        b"\x00",
        b"\n",
    ],
)
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(JournalError, match="is not a vflowopt/journal/3 journal"):
        run(path)
    assert path.read_bytes() == content


def test_an_empty_file_becomes_a_journal(finished, tmp_path):
    path = tmp_path / "run.jsonl"
    path.touch()
    assert run(path).history == finished[0].history


@pytest.mark.parametrize("damage", ["swap", "garbage", "field", "strategy", "score", "space"])
def test_damage_before_the_last_line_names_the_line(finished, tmp_path, damage):
    lines = finished[1].splitlines(keepends=True)
    if damage == "swap":
        lines[3], lines[4] = lines[4], lines[3]
    elif damage == "garbage":
        lines[3] = b'{"ind\n'
    elif damage == "space":
        lines[3] = lines[3].replace(b": ", b":", 1)
    else:
        row = json.loads(lines[3])
        if damage == "score":
            row["score"] = 0.999
        else:
            del row["score" if damage == "field" else "strategy"]
        lines[3] = json.dumps(row).encode() + b"\n"
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"".join(lines))
    with pytest.raises(JournalError, match=r"line 4 of the journal .* its checksum does not fit; restore the file"):
        run(path)
    assert path.read_bytes() == b"".join(lines)


def test_a_line_taken_out_or_put_in_is_noticed(finished, tmp_path):
    lines = finished[1].splitlines(keepends=True)
    path = tmp_path / "run.jsonl"
    for edited, number in ((lines[:3] + lines[4:], 4), (lines[:5] + lines[4:], 6), ([lines[0], *lines[2:]], 2)):
        path.write_bytes(b"".join(edited))
        with pytest.raises(JournalError, match=f"line {number} of the journal"):
            run(path)


def test_an_edited_first_line_is_noticed(finished, tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(finished[1].replace(b'"seed": 3', b'"seed": 4', 1))
    with pytest.raises(JournalError, match="line 1 of the journal"):
        run(path, seed=4)


def test_searches_for_one_file_have_journals_of_their_own(finished, tmp_path):
    beside, other = JournalBeside(tmp_path / "ov.json"), Synthetic(noise=0.1)
    assert run(beside).history == finished[0].history
    again = run(beside, other, seed=4)
    assert "ov.journal-2.jsonl" in again.notes[0]
    assert run(beside, other, seed=4).history == again.history
    assert run(beside, other).history == finished[0].history
    assert len(other.calls) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ov.journal-2.jsonl", "ov.journal.jsonl"]
    (tmp_path / "ov.journal.jsonl").write_bytes(b"notes\n")
    with pytest.raises(JournalError, match="left alone"):
        run(beside, other)


def test_another_objective_is_not_taken_for_another_model(finished, tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(finished[1])
    with pytest.raises(JournalError, match="another objective: its objective is 'last-token'"):
        run(path, Synthetic(fingerprint="that of the other objective"), objective="first-token")


def test_paths_that_cannot_be_a_journal(tmp_path):
    with pytest.raises(JournalError, match="make the directory first"):
        run(tmp_path / "none" / "run.jsonl")
    with pytest.raises(JournalError, match="cannot read"):
        run(tmp_path)


def test_each_line_is_on_disk_before_the_next_evaluation(tmp_path):
    path = tmp_path / "run.jsonl"
    seen = []

    class Watching(Synthetic):
        def evaluate(self, strategy):
            seen.append(path.read_bytes().count(b"\n"))
            return super().evaluate(strategy)

    run(path, Watching(), iterations=1, initial=3)
    assert seen == [1, 2, 3, 4]


def test_floats_survive_exactly():
    entry = HistoryEntry(
        index=0,
        origin="search",
        unit=(0.1 + 0.2, 1 / 3, 5e-324),
        budget=0.1 + 0.2,
        strategy=search(Synthetic(), 0.25, iterations=0, initial=1).history[0].strategy,
        score=0.1 + 0.7,
        retention=2 / 3,
        nonfinite=1,
        expected=1 / 7,
        seconds=1.25,
    )
    again = HistoryEntry.from_json(json.loads(json.dumps(entry.to_json())))
    assert again == entry
    assert again.seconds == entry.seconds


def test_entries_of_an_open_journal(finished, tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(finished[1])
    header = json.loads(finished[1].splitlines()[0])
    settings = {name: value for name, value in header.items() if name not in ("format", "check")}
    with Journal.open(path, settings) as journal:
        assert journal.entries == list(finished[0].history)
        with pytest.raises(JournalError, match="in use by another process"):
            run(path)
        with pytest.raises(JournalError, match="in use by another process"):
            check_journal(path)
    check_journal(path)
