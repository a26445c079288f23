"""Strategies of methods that are fitted to samples: observed once per model, kept as files."""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from vflowopt.adapter import Inputs, LoadedModel
from vflowopt.compare.cells import Cell
from vflowopt.components.stage_scoring import ReceivedAttention
from vflowopt.errors import StrategyError
from vflowopt.files.output import make_folder
from vflowopt.search.fitting import fitted_provenance, observe
from vflowopt.strategies.fitting import Fitting
from vflowopt.strategies.strategy import Strategy


class Fitter:
    """Fits strategies for the cells of one model.

    Args:
        loaded: the model.
        samples: how many it is fitted to.
        inputs: prepares them; called only if something has to be fitted, once without ranks and once with them.
        out: directory of the comparison; strategies are kept in its folder ``strategies``.
        identity: of the comparison; a file of another one is fitted again.
    """

    def __init__(
        self, loaded: LoadedModel, samples: int, inputs: Callable[[], Iterable[Inputs]], out: Path, identity: str
    ) -> None:
        self._loaded, self._samples, self._inputs = loaded, samples, inputs
        self._folder, self._identity = out / "strategies", identity
        self._observed: dict[bool, Sequence[ReceivedAttention]] = {}

    def fit(self, cell: Cell, fitting: Fitting) -> Strategy:
        """The strategy of a cell: from its file, or fitted and then written there.

        Raises:
            BudgetError: the budget cannot be met on the samples.
            UnsupportedOperationError: the model's adapter cannot observe samples.
        """
        layers = self._loaded.adapter.num_layers(self._loaded.model)
        source = f"vflowopt compare {self._identity}"
        provenance = fitted_provenance(fitting, cell.model, layers, self._samples, source)
        path = self._folder / f"{file_name(cell.model, cell.method, cell.budget, cell.seed)}.json"
        with suppress(StrategyError):  # there is no file, or it was damaged
            kept = Strategy.load(path)
            if kept == fitting.strategy(kept.schedule, provenance):
                return kept
        strategy = fitting.fit(self._seen(fitting.scorer.fits_to_ranks), provenance)
        make_folder(self._folder)
        strategy.save(path)
        return strategy

    def _seen(self, ranks: bool) -> Sequence[ReceivedAttention]:
        if ranks not in self._observed:
            self._observed[ranks] = observe(self._loaded, self._inputs(), ranks=ranks)
        return self._observed[ranks]


def file_name(*parts: object) -> str:
    """Parts other than ``None`` as the name of a file, without its suffix."""
    return "-".join(re.sub(r"[^A-Za-z0-9._-]+", "-", str(part)).strip("-") for part in parts if part is not None)
