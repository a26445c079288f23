"""What commands print at 80 columns, and would at 60, with long names: no word of any cell is broken."""

import json

import pytest
from typer.testing import CliRunner

from vflowopt.cli import app, tables

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = ("adapters", "run", "evaluate", "flow", "bench", "calibrate", "compare", "ablate")
LONG = "calibrated-attention@0.5,threshold=1.5,entropy_weight=0.5,cell=2"


@pytest.fixture
def shown(monkeypatch):
    """Runs a command at 80 columns; returns what it printed, and all tables of it."""
    drawn, laid_out = [], tables.laid_out

    def watched(grid, room):
        drawn.append(grid)
        return laid_out(grid, room)

    monkeypatch.setattr(tables, "laid_out", watched)

    def run(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "80"})
        assert result.exit_code == 0, result.stderr or result.exception
        return result.stdout, drawn

    return run


@pytest.fixture(scope="module")
def data(images):
    path = images / "screen.jsonl"
    lines = [{"image": f"{index}.png", "question": "w7 w8", "answers": ["w9"]} for index in (0, 1)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def commands(model, images, data, out):
    """Every command that prints a table, by name."""
    image, model = ("-i", images / "1.png", "-p", "w7 w8"), ("-m", model)
    short = ("--max-new-tokens", 2)
    return {
        "adapters": ("adapters",),
        "run": ("run", *model, *image, "-s", LONG, *short),
        "evaluate": ("evaluate", *model, "--data", data, "-s", LONG, "-s", "random@0.5", "--similarity", *short),
        "flow": ("flow", *model, "--data", data, "-s", LONG, "-s", f"{LONG},diversity=0.5", "-s", "random@0.5"),
        "bench": ("bench", *model, *image, "--budgets", "0.5", "-s", LONG, "--rounds", 1),
        "calibrate": ("calibrate", *model, *image[:2], "-s", LONG, "--rounds", 1, "--out", out / "cost.json"),
        "compare": (
            "compare", *model, "--method", LONG.replace("@0.5", ""), "--method", "random", "-b", 0.5, "--data", data,
            "--search-data", data, "--seeds", 2, "--rounds", 1, *short, "--out", out / "compared",
        ),
        "ablate": (
            "ablate", *model, "-b", 0.5, "--study", "components", "--data", data, "--search-data", data, "--sets", 1,
            "--samples", 2, "--initial", 1, "--iterations", 0, "--seeds", 1, *short, "--out", out / "ablated",
        ),
    }  # fmt: skip


def broken(grid, lines):
    """Words of cells and heads that are in no line as a whole."""
    shown = {word for line in lines for word in line.split()}
    shown |= {word.removesuffix(":") for word in shown}
    return {word for row in (grid.columns[1:], *grid.rows) for cell in row for word in cell.split()} - shown


@pytest.mark.parametrize("name", NAMES)
def test_no_word_is_broken(name, shown, model, images, data, tmp_path):
    printed, drawn = shown(*commands(model, images, data, tmp_path)[name])
    assert drawn
    for grid in [*drawn]:
        assert not broken(grid, printed.splitlines())
        assert not broken(grid, [line.plain for line in tables.laid_out(grid, 60)])
    assert "…" not in printed
    names = {"random@0.5", LONG} if name in {"evaluate", "flow"} else set()
    assert all(text in printed for text in names)
