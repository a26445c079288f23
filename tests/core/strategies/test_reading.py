"""What may be given as a strategy or cost model: as it is, from its file, by name, at a budget."""

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from vflowopt import CalibratedAttention, CostModel, Progressive, Strategy, prune
from vflowopt.adapter import strategy_of
from vflowopt.components.baselines import RandomTokens
from vflowopt.errors import BudgetError, CostError, StrategyError
from vflowopt.plans.competitors import SEPARATORS, Separators
from vflowopt.strategies.defaults import Default, general_strategy
from vflowopt.strategies.fitting import Fitting
from vflowopt.strategies.front import StrategyFront, strategy_at
from vflowopt.strategies.reading import read_strategy

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


@pytest.mark.parametrize("source", [None, True, ["divprune@0.25"]])
def test_what_may_be_given_is_told_who_gives_something_else(source):
    said = r" is no strategy: give a budget such as 0\.25, a text such as 'divprune@0\.25', a Strategy, the path of a "
    with pytest.raises(StrategyError, match=said):
        read_strategy(source)


def test_a_directory_is_no_strategy_and_hides_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("0.25", "divprune@0.25", "mine"):
        Path(name).mkdir()
    assert read_strategy("0.25") == Default(0.25)
    assert read_strategy("divprune@0.25")(28).scorer.component_name() == "divprune"
    with pytest.raises(StrategyError, match=r"'mine': .*directory"):
        read_strategy("mine")


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


FRONT = StrategyFront(num_layers=28, strategies=(Strategy.preset("llava-onevision-7b/50"), PRESET))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a strategy and a front."""
    monkeypatch.chdir(tmp_path)
    PRESET.save("mine.json")
    PRESET.save("mine@0.25.json")
    FRONT.save("front.json")
    return tmp_path


@pytest.mark.parametrize("source", [PRESET, NAME, f"preset:{NAME}", "mine.json", Path("mine.json"), "mine@0.25.json"])
def test_what_holds_one_strategy_gives_it_at_any_depth_or_budget(folder, source):
    assert read_strategy(source)(28) == read_strategy(source)(9) == PRESET
    moved = read_strategy(source, 0.17)(12)
    assert moved == strategy_at(PRESET, 0.17, 12)
    assert moved.average_retention(12) == pytest.approx(0.17, abs=1e-9)
    if isinstance(source, str):
        assert read_strategy(f"{source}@0.17")(12) == moved


@pytest.mark.parametrize("source", [FRONT, "front.json", Path("front.json")])
def test_a_front_gives_a_strategy_for_a_budget(folder, source):
    assert read_strategy(source, 0.3)(28) == FRONT.at(0.3)
    assert read_strategy("front.json@0.3")(28) == FRONT.at(0.3)
    with pytest.raises(StrategyError, match=r"holds strategies for budgets from 0\.2507 to 0\.5007: say which"):
        read_strategy(source)
    with pytest.raises(BudgetError, match=r"not 0\.1;"):
        read_strategy(source, 0.1)(28)


def test_a_scorer_has_its_budget_in_one_place():
    expected = Strategy(scorer=RandomTokens(seed=7), schedule=Progressive.flat(0.25))
    assert read_strategy("random@0.25,seed=7")(28) == read_strategy("random,seed=7", 0.25)(28) == expected
    assert isinstance(read_strategy("fitprune", 0.5), Fitting)
    with pytest.raises(StrategyError, match=r"'random' is a scorer without a budget: write 'random@0\.25'"):
        read_strategy("random")


def test_a_scorer_is_never_taken_for_a_file_of_its_name(folder):
    PRESET.save("random")
    assert read_strategy("random@0.5")(28).scorer == RandomTokens()
    assert read_strategy("./random@0.5")(28) == strategy_at(PRESET, 0.5, 28)


@pytest.mark.parametrize("budget", [0.25, np.float32(0.25), "0.25", "25e-2"])
def test_a_budget_alone_is_the_default(budget):
    assert read_strategy(budget) == Default(0.25)
    for layers in (4, 28):
        assert read_strategy(budget)(layers) == general_strategy(0.25, layers)
        assert general_strategy(0.25, layers).average_retention(layers) == pytest.approx(0.25)
    assert read_strategy(1) == Default(1.0)


class Adapter:
    """What the core asks here."""

    def num_layers(self, model):
        return model


class Knowing(Adapter):
    """It has a default of its own."""

    def default_strategy(self, model, budget):
        return Strategy.vflowopt(num_layers=model, budget=budget)


def test_an_adapter_may_know_a_better_default():
    assert strategy_of(Adapter(), 28, read_strategy(0.25)) == general_strategy(0.25, 28)
    assert strategy_of(Knowing(), 28, read_strategy(0.25)) == Strategy.vflowopt(num_layers=28, budget=0.25)
    assert strategy_of(Knowing(), 28, read_strategy(NAME)) == PRESET


@pytest.mark.parametrize(
    ("source", "budget", "error", "said"),
    [
        ("random@0.25", 0.5, StrategyError, r"'random@0\.25' has a budget of its own: leave out budget=0\.5"),
        ("mine.json@0.25", 0.5, StrategyError, "budget of its own"),
        (0.25, 0.5, StrategyError, r"0\.25 has a budget of its own"),
        ("0.25", 0.5, StrategyError, "budget of its own"),
        ("mine.json@half", None, StrategyError, "after the '@' belongs a budget, for example 0.25; got 'half'"),
        ("mine.json@25", None, BudgetError, r"average retention in \(0, 1\]"),
        (25, None, BudgetError, r"average retention in \(0, 1\]"),
        ("nan", None, BudgetError, "got nan"),
        ("mine.json", 25, BudgetError, "got 25"),
        ("mine.json", "0.5", BudgetError, "got '0.5'"),
        (True, None, StrategyError, "True is no strategy"),
        ("missing.json", 0.5, StrategyError, "there is none, and no preset of that name"),
        ("missing.json@0.5", None, StrategyError, "cannot read the strategy file 'missing.json': there is none"),
        ("missing@0.5", None, StrategyError, "no scorer is called 'missing'"),
        ("preset:none/25@0.5", None, StrategyError, "no preset is called 'none/25'; "),
        ("llava-onevision-7b/24@0.5", None, StrategyError, "did you mean 'llava-onevision-7b/25'"),
    ],
)
def test_what_has_no_or_two_budgets_or_a_wrong_one(folder, source, budget, error, said):
    with pytest.raises(error, match=said):
        read_strategy(source, budget)


def test_the_method_at_a_budget():
    once = Strategy.vflowopt(budget=0.25)
    assert once.schedule == Progressive.flat(0.25)
    assert [once.average_retention(layers) for layers in (2, 28)] == [0.25, 0.25]
    staged = Strategy.vflowopt(num_layers=28, budget=0.25, threshold=1.5)
    assert staged.scorer == CalibratedAttention(threshold=1.5)
    assert staged.schedule.stages == (0, 9, 18)
    assert len(set(staged.schedule.retention)) == 1
    assert staged.average_retention(28) == pytest.approx(0.25, abs=1e-9)
    assert Strategy.vflowopt(num_layers=28, budget=0.25, stages=(2,)).schedule.stages == (2,)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"num_layers": 28}, StrategyError, "either retention or budget; got None and None"),
        ({"budget": 0.5, "retention": (0.5,), "num_layers": 28}, StrategyError, r"got \(0\.5,\) and 0\.5"),
        ({"retention": (0.5, 0.5, 0.5)}, StrategyError, "give num_layers"),
        ({"budget": 0.5, "stages": (0, 9)}, StrategyError, "give num_layers"),
        ({"budget": 2}, BudgetError, "got 2"),
        ({"budget": 0.1, "num_layers": 28, "stages": (9,)}, BudgetError, "smallest feasible budget"),
    ],
)
def test_the_method_at_what_is_no_budget(options, error, said):
    with pytest.raises(error, match=said):
        Strategy.vflowopt(**options)


def test_a_strategy_reads_on_one_line():
    for name in set(get_args(Separators)) - {SEPARATORS}:
        assert repr(read_strategy(f"random@0.25,separators={name}")(28)).endswith(f"(0.25,)), separators={name})")
    own = Strategy.vflowopt(num_layers=28, retention=(0.25, 0.5, 1.0), threshold=34.76, cell=15.5)
    assert (
        repr(own)
        == str(own)
        == (
            "Strategy(scorer=calibrated-attention(threshold=34.76), schedule=progressive(stages=(0, 9, 18), "
            "retention=(0.25, 0.5, 1.0)), recycler=grid(cell=15.5))"
        )
    )
    assert repr(read_strategy("random@0.25")(28)) == (
        "Strategy(scorer=random(), schedule=progressive(stages=(0,), retention=(0.25,)))"
    )
