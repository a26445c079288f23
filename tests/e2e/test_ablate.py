"""``vflowopt ablate`` on a reference model: real searches, killed in the middle and resumed."""

import csv
import json

import pytest

from support.command_line import invoke as run
from support.command_line import killed_after, needs_fork
from vflowopt import Strategy

pytest.importorskip("vflowopt_reference")
pytestmark = pytest.mark.filterwarnings("ignore")

EVALUATIONS = 3
ABLATED = [
    "ablate", "--model", "reference", "--budget", "0.5", "--study", "search", "--study", "objective", "--seeds", "1",
    "--limit", "2", "--samples", "2", "--initial", "2", "--iterations", "1",
]  # fmt: skip
CELLS = 1 + 3 + 6 - 1
"""Unpruned, search methods, objectives; one search is of both."""


def evaluations(out):
    """Lines of every journal without its first."""
    return {path.name: path.read_text().splitlines()[1:] for path in (out / "searches").glob("*.jsonl")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    return out, json.loads(run(*ABLATED, "--out", out, "--json").stdout)


def test_every_search_has_a_row_a_journal_and_a_strategy_file(whole):
    out, told = whole
    assert len(told) == 1 + 3 + 1 + 6
    with (out / "ablate.csv").open() as file:
        assert [line["method"] for line in csv.DictReader(file)] == [cell["method"] for cell in told]
    assert [len(lines) for lines in evaluations(out).values()] == [EVALUATIONS] * (CELLS - 1)
    found = [Strategy.load(path) for path in (out / "strategies").glob("*.json")]
    assert sorted(strategy.provenance.objective for strategy in found) == [
        "centred-last-token", "first-token", "last-token", "last-token", "last-token", "mean-pooling", "next-token",
        "top-3-tokens",
    ]  # fmt: skip
    for cell in told:
        assert cell["on_budget"]
        assert cell["questions"] == 2
    for name in ("ablate-search.png", "ablate-objective.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


@needs_fork
@pytest.mark.slow
def test_killed_and_resumed_it_ends_as_if_it_had_never_stopped(whole, tmp_path):
    out, cells = tmp_path / "killed", tmp_path / "killed" / "cells.jsonl"
    before = killed_after(2, cells, *ABLATED, "--out", out)
    searched = evaluations(out)
    assert 2 <= before.count(b'{"result"') < CELLS

    run(*ABLATED, "--out", out)
    assert cells.read_bytes().startswith(before)
    assert cells.read_bytes().count(b'{"result"') == CELLS
    after = evaluations(out)
    assert {name: len(lines) for name, lines in after.items()} == dict.fromkeys(after, EVALUATIONS)
    for name, lines in searched.items():
        kept = lines[:-1]  # the last line may have been written by half
        assert after[name][: len(kept)] == kept
    for name in ("ablate.md", "ablate.csv"):
        assert (out / name).read_text() == (whole[0] / name).read_text()
