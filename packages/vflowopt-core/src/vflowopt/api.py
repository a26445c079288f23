"""``prune``: the one call that most users need."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from vflowopt.adapter import Pruning
from vflowopt.budgets.calibration import prune_guarded
from vflowopt.budgets.cost import CostModel
from vflowopt.plugins import find_adapter
from vflowopt.strategies.strategy import Strategy


def prune(
    model: Any,
    strategy: Strategy | str | Path,
    *,
    processor: Any = None,
    guard: CostModel | str | Path | None = None,
) -> AbstractContextManager[Pruning]:
    """Prune visual tokens in every prefill of ``model`` inside a ``with`` block.

    ``model(**inputs)`` and ``model.generate(**inputs)`` work as before, batches, beams and multi-turn caches
    included. The model is left as it was found, also after an exception.

    Args:
        model: a model that an installed adapter supports; also inside a PEFT adapter, ``torch.compile`` or
            ``DistributedDataParallel``.
        strategy: what to prune, when and how; or the path of its file, or the name of a preset.
        processor: the model's processor, from which to take the pixel normalisation; only used by strategies with a
            positive entropy weight, and only needed if the checkpoint's differs from its family's usual one.
        guard: what prefills cost here (``vflowopt calibrate``), or the path of its file. A forward that pruning is not
            expected to make faster is left alone, and ``pruning.report.guard`` says so. Only the time of the prefill
            counts: what pruning saves in memory or later does not.

    Raises:
        UnsupportedModelError: no adapter, or more than one, supports the model.
        StrategyError: there is no such file or preset, or the strategy does not fit the model, for example a stage
            beyond the last layer.
        CostError: there is no such file, or the guard was calibrated for another model or machine, or for none of the
            strategy's kind.
        PruningStateError: the model is being pruned already (raised when the block is entered).
    """
    return prune_guarded(
        find_adapter(model),
        model,
        Strategy.read(strategy),
        processor,
        None if guard is None else CostModel.read(guard),
    )
