"""Methods fitted to samples: observed once, kept as files, fitted again for another comparison."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from vflowopt import Strategy
from vflowopt.compare import Cell, Store, read_method
from vflowopt.compare.fitted import Fitter
from vflowopt.components.stage_scoring import ReceivedAttention
from vflowopt.errors import BudgetError, StrategyError, UnsupportedOperationError
from vflowopt.strategies.fitting import Fitting
from vflowopt.strategies.reading import read_strategy
from vflowopt.strategies.specification import read_fitting

LAYERS, TOKENS, STRUCTURAL = 7, 40, 2
LEAST = (1 + (LAYERS - 1) / (TOKENS - STRUCTURAL)) / LAYERS
"""One token of those that have a patch in all layers but the first."""


@dataclass
class Stub:
    """A loaded model whose tokens receive more attention the later they come, the structural ones none."""

    name: str = "stub"
    model: object = "the model"
    processor: object = "its processor"
    observed: int = 0

    @property
    def adapter(self):
        return self

    def num_layers(self, model):
        return LAYERS

    def received_attention(self, model, samples, *, processor=None, ranks=False):
        assert (model, processor, list(samples)) == (self.model, self.processor, ["first", "second"])
        self.observed += 1
        structural = np.arange(TOKENS) < STRUCTURAL
        received = np.tile(np.where(structural, 0.0, np.arange(TOKENS)), (LAYERS, 1))
        return [ReceivedAttention(received, received, structural, np.full(LAYERS, 3) if ranks else None)]


def fitter(stub, out, identity="one"):
    return Fitter(stub, 2, lambda: iter(["first", "second"]), out, identity)


def fit(own, budget, model="m", method="fitprune"):
    return own.fit(Cell(model, method, budget, None), read_fitting(method, budget))


def test_strategies_meet_their_budgets_from_one_observation(tmp_path):
    stub = Stub()
    own = fitter(stub, tmp_path)
    for budget in (0.8, 0.5, LEAST + 1e-6):
        strategy = fit(own, budget)
        assert strategy.average_retention(LAYERS) == pytest.approx(budget, abs=1e-9)
        assert Strategy.load(tmp_path / "strategies" / f"m-fitprune-{budget}.json") == strategy
        assert strategy.provenance.model_dump(exclude={"versions", "source"}, exclude_none=True) == {
            "model": "m", "budget": budget, "num_layers": LAYERS, "samples": 2,
        }  # fmt: skip
    assert stub.observed == 1


def test_ranks_are_observed_for_the_method_that_fits_to_them(tmp_path):
    stub = Stub()
    own = fitter(stub, tmp_path)
    for method in ("fitprune", "sparsevlm-adaptive", "sparsevlm-adaptive,every_layer=true"):
        for budget in (0.8, 0.5):
            assert fit(own, budget, method=method).average_retention(LAYERS) == pytest.approx(budget, abs=1e-9)
    assert stub.observed == 2


def test_an_infeasible_budget_leaves_no_file(tmp_path):
    with pytest.raises(BudgetError, match=f"smallest feasible budget is {LEAST:.4f}"):
        fit(fitter(Stub(), tmp_path), LEAST - 1e-3)
    assert not (tmp_path / "strategies").exists()


def test_what_was_fitted_is_not_fitted_again(tmp_path):
    before = fit(fitter(Stub(), tmp_path), 0.5)
    again = Stub()
    assert fit(fitter(again, tmp_path), 0.5) == before
    assert again.observed == 0


@pytest.mark.parametrize("change", ["identity", "model", "damage"])
def test_a_file_of_something_else_is_not_used(change, tmp_path):
    fit(fitter(Stub(), tmp_path), 0.5, model="a/b")
    path = tmp_path / "strategies" / "a-b-fitprune-0.5.json"
    if change == "damage":
        path.write_text(path.read_text()[:-20])
    stub, model = Stub(), "a:b" if change == "model" else "a/b"
    strategy = fit(fitter(stub, tmp_path, "two" if change == "identity" else "one"), 0.5, model)
    assert stub.observed == 1
    assert Strategy.load(path) == strategy


def test_an_adapter_that_cannot_observe(tmp_path):
    class Plain:
        name, adapter, model = "plain", None, None

        def num_layers(self, model):
            return LAYERS

    plain = Plain()
    plain.adapter = plain
    with pytest.raises(UnsupportedOperationError, match=r"'plain' has no received_attention\(\)"):
        fit(fitter(plain, tmp_path), 0.5)


def test_a_method_knows_that_it_is_fitted():
    fitted, hand_set, searched = (
        read_method(text, (0.5,), read_strategy) for text in ("fitprune", "fastv", "searched")
    )
    assert (fitted.fitted, hand_set.fitted, searched.fitted) == (True, False, False)
    assert (fitted.needs_samples, hand_set.needs_samples, searched.needs_samples) == (True, False, True)
    fitting = read_strategy(fitted.specification(0.5, None))
    assert isinstance(fitting, Fitting)
    with pytest.raises(StrategyError, match="vflowopt fit"):
        fitting(LAYERS)


def test_a_comparison_is_identified_by_settings_and_weights(tmp_path):
    store = Store(tmp_path / "cells.jsonl", settings={"samples": 2}, models={"m": "w", "n": "w"})
    assert store.identity("m") == replace(store, results={}).identity("m")
    others = [replace(store, settings={"samples": 3}), replace(store, models={"m": "x"})]
    assert len({store.identity("m"), store.identity("n"), *(other.identity("m") for other in others)}) == 4
