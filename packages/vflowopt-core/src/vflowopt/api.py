"""``prune``: the one call that most users need."""

from pathlib import Path

from vflowopt.adapter import Pruning, strategy_of
from vflowopt.budgets.calibration import prune_guarded
from vflowopt.budgets.cost import CostModel
from vflowopt.plugins import find_adapter
from vflowopt.strategies.reading import StrategySource, read_strategy


def prune(
    model: object,
    strategy: StrategySource,
    *,
    budget: float | None = None,
    processor: object = None,
    guard: CostModel | str | Path | None = None,
    graphs: bool = False,
) -> Pruning:
    """Prune visual tokens in every prefill of ``model``: inside a ``with`` block, or from ``start()`` to ``stop()``.

    ``model(**inputs)`` and ``model.generate(**inputs)`` work as before, batches, beams and multi-turn caches
    included. At the end the model is left as it was found, also after an exception.

    Args:
        model: a model that an installed adapter supports; also inside a PEFT adapter, ``torch.compile`` or
            ``DistributedDataParallel``.
        strategy: what to prune, when and how: a strategy, the path of its file, or the name of a preset; a front of
            strategies, or the path of its file, with ``budget``; a text such as ``"divprune@0.25"``, as on the command
            line; or a budget, ``0.25``: the best known strategy for the model's family.
        budget: average retention in (0, 1] to bring the strategy to, or for which to take it from the front.
        processor: the model's processor, from which to take the pixel normalisation; only used by strategies with a
            positive entropy weight, and only needed if the checkpoint's differs from its family's usual one.
        guard: what prefills cost here (``vflowopt calibrate``), or the path of its file. A forward that pruning is not
            expected to make faster is left alone, and ``pruning.report.guard`` says so. Only the time of the prefill
            counts: what pruning saves in memory or later does not.
        graphs: on a CUDA device, record the vision tower and the pruned decoder as CUDA graphs when a shape of inputs
            comes for the second time, and replay them from then on. Results are the same, to rounding: the text after
            the last image is filled up to one of few lengths where that is exact, so that questions of other lengths
            have the same shape. What cannot be recorded runs as it does without, and a warning says why, once.

    Returns:
        What begins and ends it, with plan and report of the last prefill.

    Raises:
        UnsupportedModelError: no adapter, or more than one, supports the model.
        StrategyError: there is no such file, preset or scorer, or two budgets or none; or the strategy does not fit the
            model, for example a stage beyond the last layer.
        BudgetError: the budget is outside (0, 1], or the strategy's front or stages do not reach it.
        CostError: there is no such file, or the guard was calibrated for another model or machine, or for none of the
            strategy's kind.
        UnsupportedOperationError: ``guard`` or ``graphs`` is given, and the model's adapter does not have it.
        PruningStateError: the model is being pruned already (raised when it begins).
    """
    wanted = read_strategy(strategy, budget)
    cost = None if guard is None else CostModel.read(guard)
    adapter = find_adapter(model)
    return prune_guarded(adapter, model, strategy_of(adapter, model, wanted), processor, cost, graphs=graphs)
