"""Strategies of variants: searched, searched with a part missing, changed afterwards, or another model's."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from vflowopt.ablation.parts import PARTS
from vflowopt.ablation.studies import Plan
from vflowopt.ablation.variants import Recipe, Variant
from vflowopt.adapter import Evaluator
from vflowopt.compare import Cell, Store
from vflowopt.compare.contracts import Asked
from vflowopt.compare.fitted import file_name
from vflowopt.compare.workbench import Search, Workbench
from vflowopt.errors import StrategyError
from vflowopt.search import SearchSpace, random_search, search
from vflowopt.strategies.specification import StrategyFor
from vflowopt.strategies.strategy import Strategy


class Searches:
    """The source of one model's strategies; see :data:`vflowopt.compare.run.Source`.

    A search is resumed from its journal. One with fewer evaluations reads the beginning of a longer one's.

    Args:
        variants: by name.
        sets: samples by name of their set.
        plan: how strategies are searched.
        store: of finished cells, among them those of other models.
    """

    def __init__(
        self, variants: Mapping[str, Variant], sets: Mapping[str, Sequence[Asked]], plan: Plan, store: Store
    ) -> None:
        self._variants, self._sets, self._plan, self._store = variants, sets, plan, store
        self._last: tuple[object, Evaluator] | None = None

    def __call__(self, bench: Workbench, cell: Cell, label: str) -> StrategyFor | None:
        """What gives a cell's strategy; ``None`` for the unpruned model."""
        variant = self._variants.get(cell.method)
        if variant is None:
            return None
        if variant.model is not None:
            return partial(self._of_another_model, cell, variant.model, Variant(variant.recipe).name)
        return lambda _layers: self._searched(bench, cell, label, variant)

    def _searched(self, bench: Workbench, cell: Cell, label: str, variant: Variant) -> Strategy:
        assert cell.budget is not None
        recipe = variant.recipe
        run = self._search(self._evaluator(bench, recipe), recipe, cell)
        journal = file_name(cell.model, recipe.journal, cell.budget, cell.seed)
        strategy = bench.finish(run, journal, f"{label}: search", recipe.evaluations)
        if variant.removed:
            strategy = PARTS[variant.removed].removed_from(strategy, cell.budget)
        bench.save(strategy, file_name(cell.model, cell.method, cell.budget, cell.seed))
        return strategy

    def _search(self, evaluator: Evaluator, recipe: Recipe, cell: Cell) -> Search:
        assert cell.budget is not None
        fixed, initial = self._plan.fixed, self._plan.initial
        common: dict[str, Any] = {"seed": cell.seed or 0, "objective": recipe.objective, "model_name": cell.model}
        common |= PARTS[recipe.without].restriction(fixed) if recipe.without else {"fixed": fixed}
        if recipe.kind == "random":
            return partial(random_search, evaluator, cell.budget, evaluations=recipe.evaluations, **common)
        starts = () if recipe.kind == "bayesian without starts" else None
        iterations = recipe.evaluations - initial
        return partial(search, evaluator, cell.budget, initial=initial, iterations=iterations, starts=starts, **common)

    def _evaluator(self, bench: Workbench, recipe: Recipe) -> Evaluator:
        """Only the last one is kept: its samples' features fill memory."""
        if self._last is None or self._last[0] != (bench, recipe.encoded):
            self._last = None
            samples = self._sets[recipe.sample_set][: recipe.samples]
            self._last = (bench, recipe.encoded), bench.evaluator(samples, recipe.objective)
        return self._last[1]

    def _of_another_model(self, cell: Cell, model: str, method: str, num_layers: int) -> Strategy:
        """Found in that model's cell; brought to this decoder's depth if it has another."""
        assert cell.budget is not None
        found = self._store.results.get(Cell(model, method, cell.budget, cell.seed))
        if found is None or found.strategy is None:
            raise StrategyError(f"there is none for {model}: {found.cannot if found else 'it has other samples'}")
        strategy = Strategy.model_validate(found.strategy)
        if abs(strategy.average_retention(num_layers) - cell.budget) <= 1e-9:
            return strategy
        return SearchSpace.of(cell.budget, num_layers).rescale(strategy)
