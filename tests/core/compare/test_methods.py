"""``--method``, and the cells that methods, budgets and seeds make."""

import pytest

from vflowopt import Strategy
from vflowopt.compare import SEARCHED, UNPRUNED, Cell, cells_of, read_method
from vflowopt.components.baselines import RandomTokens
from vflowopt.errors import InputError, StrategyError
from vflowopt.strategies.front import StrategyFront
from vflowopt.strategies.reading import read_strategy

BUDGETS = (0.5, 0.1)


def read(text):
    return read_method(text, BUDGETS, read_strategy)


def test_a_scorer_with_options_at_a_budget():
    method = read("calibrated-attention,threshold=1.5,cell=3.5")
    strategy = read_strategy(method.specification(0.1, None))(9)
    assert strategy == read_strategy("calibrated-attention@0.1,threshold=1.5,cell=3.5")(9)
    assert not method.seeded


def test_seeds_reach_the_scorer():
    method = read("random")
    assert method.seeded
    assert read_strategy(method.specification(0.5, 2))(9).scorer == RandomTokens(seed=2)
    assert not read("random,seed=7").seeded


def test_every_scorer_that_is_installed_can_be_named():
    from vflowopt.plugins import component_types

    for name in component_types("scorer"):
        assert callable(read_strategy(read(name).specification(0.9, None)))


def test_a_file_is_known_by_its_content(tmp_path):
    path = tmp_path / "mine@1.json"
    Strategy.vflowopt(num_layers=9, retention=(0.5, 0.5, 0.5)).save(path)
    before = read(str(path))
    assert before.file
    assert not before.budgeted
    assert read_strategy(before.specification(None, None))(9).schedule.boundaries == (0, 3, 6)
    assert read(str(path)) == before
    Strategy.vflowopt(num_layers=9, retention=(0.5, 0.5, 0.4)).save(path)
    assert read(str(path)).identity != before.identity
    assert read("preset:llava-onevision-7b/25").file


def test_a_front_has_a_strategy_for_every_budget(tmp_path):
    strategies = tuple(Strategy.vflowopt(num_layers=9, budget=budget) for budget in (0.5, 0.1))
    path = StrategyFront(num_layers=9, strategies=strategies).save(tmp_path / "front.json")
    method = read(str(path))
    assert method.budgeted
    assert not method.seeded
    for budget in (0.5, 0.3, 0.1):
        strategy = read_strategy(method.specification(budget, None))(9)
        assert strategy.average_retention(9) == pytest.approx(budget, abs=1e-9)
    StrategyFront(num_layers=9, strategies=strategies[:1]).save(path)
    assert read(str(path)).identity != method.identity


@pytest.mark.parametrize(
    ("text", "error", "expected"),
    [
        ("unheard-of", StrategyError, "mean-attention"),
        ("random@0.5", InputError, "--budget"),
        ("random,speed=1", StrategyError, "speed"),
        ("searched,seed=1", StrategyError, "no 'seed' to fix"),
        ("searched,diversity=much", StrategyError, "diversity=much"),
        ("searched,diversity=2", StrategyError, "diversity from 0 to 1"),
        ("missing.json", StrategyError, "missing.json"),
        ("preset:unknown", StrategyError, "llava-onevision-7b/25"),
    ],
)
def test_what_is_no_method(text, error, expected):
    with pytest.raises(error, match=expected):
        read(text)


def test_a_search_may_have_fixed_variables():
    plain, paper = read(SEARCHED), read("searched,diversity=0,threshold=1.5")
    assert (plain.searched, plain.seeded, plain.needs_samples, plain.fixed) == (True, True, True, {})
    assert (paper.searched, paper.seeded, paper.needs_samples) == (True, True, True)
    assert paper.fixed == {"diversity": 0.0, "threshold": 1.5}
    assert paper.identity != plain.identity


def test_cells_of_a_model():
    methods = [read(text) for text in (UNPRUNED, "mean-attention", "random", SEARCHED, "preset:llava-onevision-7b/25")]
    cells = list(cells_of("m", methods, BUDGETS, 3))
    assert len(cells) == len(set(cells)) == 1 + 1 + 2 * (1 + 3 + 3)
    assert cells[0] == Cell("m", UNPRUNED, None, None)
    assert [cell.seed for cell in cells if cell.method == "random" and cell.budget == 0.1] == [0, 1, 2]
    assert [cell.budget for cell in cells if cell.method == "mean-attention"] == [0.5, 0.1]
    assert sum(cell.budget is None for cell in cells) == 2
