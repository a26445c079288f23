"""The front door: short, its links lead somewhere, its table is the demo's, and its Python runs when pasted."""

import re

import pytest

from docs.pages import REPOSITORY, blocks, prose, read
from vflowopt import Strategy
from vflowopt.cli.demo import BUDGETS, COLUMNS, Effort
from vflowopt.compare import wilson
from vflowopt.figures import percent

README = "../README.md"
PASTED = {
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": "{checkpoint}",
    "llava-onevision-7b/25": "shallow.json",
}
"""What a test can have in the place of a large checkpoint and its strategy."""


def table():
    rows = [line.strip("|").split("|") for line in prose(README).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows]


def test_it_is_short():
    assert len(read(README).splitlines()) <= 90


def test_links_resolve():
    targets = re.findall(r"\]\(([^)\s#]+)", prose(README))
    assert [one for one in targets if not one.startswith("https://") and not (REPOSITORY / one).is_file()] == []


def test_the_table_is_the_demos():
    heads, _, unpruned, *pruned = table()
    assert heads == [*COLUMNS]
    assert unpruned[0] == "unpruned"
    assert [row[0] for row in pruned] == [percent(budget, 0) for budget in BUDGETS]
    for _, accuracy, interval, *_ in (unpruned, *pruned):
        right = float(accuracy.removesuffix(" %")) / 100 * Effort.questions
        assert right == pytest.approx(round(right), abs=0.1)
        assert interval == "-".join(f"{100 * bound:.1f}" for bound in wilson(round(right), Effort.questions))


def test_the_python_runs_when_pasted(tmp_path, monkeypatch, capsys):
    reference = pytest.importorskip("vflowopt_reference")
    (block,) = (block for block in blocks(README) if block.language == "python")
    code = block.text
    for given, ours in PASTED.items():
        assert code.count(given) == 1
        code = code.replace(given, ours.format(checkpoint=reference.path()))
    monkeypatch.chdir(tmp_path)
    reference.held_out(1)[0].image.save("photo.jpg")
    Strategy.vflowopt(num_layers=9, retention=(0.4, 0.6, 0.5), threshold=1.5, cell=3.5).save("shallow.json")
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["pruning"].report.retention == pytest.approx(0.253, abs=0.001)
    assert "retention" in capsys.readouterr().out
