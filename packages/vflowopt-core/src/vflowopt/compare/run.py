"""Fill the cells that are missing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vflowopt.adapter import LoadedModel
from vflowopt.compare.cells import Cell
from vflowopt.compare.contracts import Asked, Effort, Watch
from vflowopt.compare.methods import UNPRUNED, Method, Reader
from vflowopt.compare.store import Store
from vflowopt.compare.workbench import Workbench
from vflowopt.strategies.fitting import Fitting
from vflowopt.strategies.specification import StrategyFor
from vflowopt.strategies.strategy import Strategy


@dataclass(frozen=True)
class Subject:
    """A model of the comparison.

    Attributes:
        label: what to call it.
        load: loads it; called only if a cell of it is missing.
        questions: asked in every cell.
        samples: searched on and fitted to.
    """

    label: str
    load: Callable[[], LoadedModel]
    questions: Sequence[Asked]
    samples: Sequence[Asked] = ()


Source = Callable[[Workbench, Cell, str], StrategyFor | None]
"""Of a cell that is called so: what gives its strategy for a number of decoder layers, ``None`` to prune nothing."""


def by_method(methods: Mapping[str, Method], read: Reader) -> Source:
    """Strategies of methods.

    Args:
        methods: by identity.
        read: reads strategy specifications.
    """

    def source(bench: Workbench, cell: Cell, label: str) -> StrategyFor | None:
        return _strategy_for(bench, cell, label, methods[cell.method], read)

    return source


def fill(
    source: Source,
    subject: Subject,
    cells: Sequence[Cell],
    names: Mapping[str, str],
    store: Store,
    *,
    judge: Callable[[str, Sequence[str]], bool],
    effort: Effort,
    out: Path,
    watch: Watch,
) -> None:
    """Fill a model's missing cells, one after the other; each is on disk before the next begins.

    Args:
        source: where strategies come from.
        subject: the model.
        cells: its cells, in the order in which to fill them.
        names: what to call each method, by identity.
        store: of finished cells.
        judge: whether an answer equals one of the accepted ones.
        effort: how much is done per cell.
        out: directory for searches, and for searched and fitted strategies.
        watch: looks on.

    Raises:
        VFlowOptError: the model cannot be loaded or asked. What one method cannot do on it becomes its cell's result.
    """
    missing = [cell for cell in cells if cell not in store.results]
    if not missing:
        return
    identity = store.identity(subject.label)
    bench = Workbench(subject.load(), subject.questions, subject.samples, judge, effort, out, watch, identity)
    for cell in missing:
        label = _label(cell, names[cell.method])
        result = bench.fill(cell, label, source(bench, cell, label))
        store.add(result)
        watch.done(result)


def _strategy_for(bench: Workbench, cell: Cell, label: str, method: Method, read: Reader) -> StrategyFor | None:
    if method.name == UNPRUNED:
        return None
    if method.searched:
        return lambda _layers: bench.search(cell, label, method.fixed)
    return partial(_read, bench, cell, read, method.specification(cell.budget, cell.seed))


def _read(bench: Workbench, cell: Cell, read: Reader, text: str, num_layers: int) -> Strategy:
    strategy_for = read(text)
    return bench.fit(cell, strategy_for) if isinstance(strategy_for, Fitting) else strategy_for(num_layers)


def _label(cell: Cell, method: str) -> str:
    budget = "" if cell.budget is None else f" at {cell.budget:.3g}"
    return f"{cell.model}, {method}{budget}" + ("" if cell.seed is None else f", seed {cell.seed}")
