"""A strategy or cost model as it is, from its file, or by name."""

from pathlib import Path

import pytest

from vflowopt import CostModel, Strategy, prune
from vflowopt.errors import CostError, StrategyError

NAME = "llava-onevision-7b/25"
PRESET = Strategy.preset(NAME)


@pytest.mark.parametrize("kind", [str, Path])
def test_from_a_file(kind, tmp_path, monkeypatch):
    own = Strategy.vflowopt(num_layers=12, retention=(0.5, 0.5, 0.5))
    monkeypatch.chdir(tmp_path)
    own.save("mine.json")
    assert Strategy.read(kind("mine.json")) == Strategy.read(kind(tmp_path / "mine.json")) == own


@pytest.mark.parametrize("source", [PRESET, NAME, f"preset:{NAME}"])
def test_as_it_is_and_by_name(source):
    assert Strategy.read(source) == PRESET


def test_a_file_of_a_presets_name_is_read_where_a_path_is_meant(tmp_path, monkeypatch):
    own = Strategy.vflowopt(num_layers=12, retention=(0.5, 0.5, 0.5))
    monkeypatch.chdir(tmp_path)
    Path(NAME).parent.mkdir()
    own.save(NAME)
    assert Strategy.read(Path(NAME)) == Strategy.read(f"./{NAME}") == own
    assert Strategy.read(NAME) == PRESET


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("missing.json", r"'missing\.json': there is none, and no preset of that name; .*there are: .*llava-onevision"),
        ("llava-onevision-7b/255", r"did you mean 'llava-onevision-7b/25"),
        (
            "preset:llava-onevision/25",
            r"no preset is called 'llava-onevision/25'; did you mean 'llava-onevision-7b/25'",
        ),
        ("x" * 5000, "there is none"),
        ("nul\0", "there is none"),
        (Path("missing.json"), "cannot read the strategy file"),
        (0.25, r"0\.25 is no strategy: give a Strategy, the path of a strategy file, or the name of a preset"),
        (None, "None is no strategy"),
    ],
)
def test_what_is_none_of_these(source, said):
    with pytest.raises(StrategyError, match=said):
        Strategy.read(source)


def test_prune_reads_its_strategy_before_it_looks_at_anything_else():
    class Model:
        class config:  # noqa: N801
            model_type = "llava_onevision"

    with pytest.raises(StrategyError, match=r"'missing\.json'"):
        prune(Model(), "missing.json")
    with pytest.raises(CostError, match=r"cannot read the cost model 'missing\.json'"):
        prune(Model(), NAME, guard="missing.json")
    with pytest.raises(CostError, match="3 is no cost model: give a CostModel or the path of its file"):
        CostModel.read(3)
