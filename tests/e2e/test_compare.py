"""``vflowopt compare`` on a reference model: a whole comparison, killed in the middle and resumed."""

import csv
import json
import shutil

import pytest

from support.command_line import complaint, killed_after, needs_fork
from support.command_line import invoke as run
from vflowopt import Strategy
from vflowopt.compare.store import FORMAT
from vflowopt.files.record import RecordFile, RecordKind

pytest.importorskip("vflowopt_reference")
pytestmark = pytest.mark.filterwarnings("ignore")

LIMIT = 3
COMPARED = [
    "compare", "--model", "reference", "--method", "mean-attention", "--method", "random", "--method", "fastv",
    "--method", "fitprune", "--method", "searched,scorer=calibrated-attention,diversity=0.5",
    "--budget", "0.5", "--budget", "0.1", "--seeds", "2", "--limit", LIMIT, "--samples", "2", "--initial", "2",
    "--iterations", "1", "--no-latency",
]  # fmt: skip
CELLS = 1 + 2 * (1 + 2 + 2 + 1 + 1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted comparison."""
    out = tmp_path_factory.mktemp("whole")
    return out, json.loads(run(*COMPARED, "--out", out, "--json").stdout)


def test_every_cell_is_there_and_meets_its_budget(whole):
    out, told = whole
    assert len(told) == CELLS
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    with (out / "compare.csv").open() as file:
        assert [line["method"] for line in csv.DictReader(file)] == [cell["method"] for cell in told]
    for cell in told:
        if cell["cannot"]:
            continue
        assert cell["questions"] == LIMIT
        assert cell["accuracy_low"] <= cell["accuracy"] <= cell["accuracy_high"]
        assert cell["on_budget"]
        assert cell["retention"] == pytest.approx(cell["budget"], abs=0.002)
    infeasible = [cell for cell in told if cell["cannot"]]
    assert [(cell["method"], cell["budget"]) for cell in infeasible] == [("fastv", 0.1), ("fitprune", 0.1)]
    assert all("smallest feasible" in cell["cannot"] for cell in infeasible)


def test_searches_keep_what_is_fixed(whole):
    out, _ = whole
    found = sorted(path.name for path in (out / "strategies").glob("reference-scorer*.json"))
    fixed = "reference-scorer-calibrated-attention-diversity-0.5"
    assert found == [f"{fixed}-{budget}-{seed}.json" for budget in (0.1, 0.5) for seed in (0, 1)]
    assert all(Strategy.load(out / "strategies" / name).scorer.diversity == 0.5 for name in found)


def test_figures_are_those_of_evaluate(whole):
    _, told = whole
    specifications = {"mean-attention@0.5": ("mean-attention", ""), "random@0.5,seed=1": ("random", 1)}
    ask = [part for text in specifications for part in ("--strategy", text)]
    rows = json.loads(run("evaluate", "-m", "reference", "--limit", LIMIT, "--similarity", "--json", *ask).stdout)
    for row in rows:
        method, seed = specifications.get(row["strategy"], ("unpruned", ""))
        (cell,) = [c for c in told if (c["method"], c["seed"]) == (method, seed) and c["budget"] in (0.5, 1.0)]
        assert cell["right"] == row["right"]
        assert cell["retention"] == pytest.approx(row["retention"])
        assert cell["similarity"] == pytest.approx(row["similarity"], abs=1e-5)
        assert [float(count) for count in cell["tokens"].split(" > ")] == pytest.approx(row["tokens"])


@needs_fork
def test_killed_and_resumed_it_ends_as_if_it_had_never_stopped(whole, tmp_path):
    out, cells = tmp_path / "killed", tmp_path / "killed" / "cells.jsonl"
    before = killed_after(3, cells, *COMPARED, "--out", out)
    finished = before.count(b'{"result"')
    assert 3 <= finished < CELLS
    cells.write_bytes(before + b'{"result": {"cell": {"mod')  # a line of which half was written

    result = run(*COMPARED, "--out", out)
    assert "done again" in " ".join(result.stderr.split())
    after = cells.read_bytes()
    assert after.startswith(before)
    lines = [json.loads(line) for line in after.splitlines()]
    done = [json.dumps(line["result"]["cell"]) for line in lines if "result" in line]
    assert len(done) == len(set(done)) == CELLS
    for name in ("compare.md", "compare.csv"):
        assert (out / name).read_text() == (whole[0] / name).read_text()

    again = run(*COMPARED, "--out", out, "--json")
    assert json.loads(again.stdout) == whole[1]
    assert cells.read_bytes() == after


def test_what_was_fitted_is_not_fitted_again(whole, tmp_path, monkeypatch):
    out = shutil.copytree(whole[0], tmp_path / "resumed")
    lines = (out / "cells.jsonl").read_text().splitlines()
    left = [json.loads(line) for line in lines if '"method": "fitprune", "budget": 0.5' not in line]
    assert len(left) == len(lines) - 1
    (out / "cells.jsonl").unlink()
    for row in left:
        del row["check"]
    header = {"settings": left.pop(0)["settings"]}
    with RecordFile.open(out / "cells.jsonl", RecordKind(FORMAT, "file", ""), header, lambda *_: None) as record:
        for row in left:
            record.append(row)
    monkeypatch.delattr("vflowopt_hf.adapter.TransformersAdapter.received_attention")
    run(*COMPARED, "--out", out)
    assert (out / "compare.md").read_text() == (whole[0] / "compare.md").read_text()


def test_latency_is_measured_against_unpruned(tmp_path):
    ask = ["compare", "-m", "reference", "--method", "uniform-grid", "--budget", 0.25, "--limit", 2, "--rounds", 1]
    _, cell = json.loads(run(*ask, "--out", tmp_path, "--json").stdout)
    for part in ("prefill", "lm_prefill", "decode_per_token"):
        assert cell[f"{part}_s"] > 0
        assert cell[f"{part}_unpruned_s"] > 0
    assert cell["lm_prefill_s"] < cell["lm_prefill_unpruned_s"]
    assert "decode" in (tmp_path / "compare.md").read_text()


def test_other_questions_are_refused(whole):
    out, _ = whole
    before = (out / "cells.jsonl").read_bytes()
    changed = [LIMIT + 1 if part == LIMIT else part for part in COMPARED]
    assert "limit is 3, now it is 4" in complaint(*changed, "--out", out)
    assert (out / "cells.jsonl").read_bytes() == before
