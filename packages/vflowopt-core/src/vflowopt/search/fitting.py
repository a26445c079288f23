"""How samples are observed that a strategy's schedule is fitted to."""

from collections.abc import Iterable, Sequence

from vflowopt.adapter import FittingAdapter, Inputs, LoadedModel
from vflowopt.components.stage_scoring import ReceivedAttention
from vflowopt.errors import UnsupportedOperationError
from vflowopt.search.result import installed_versions
from vflowopt.strategies.fitting import Fitting
from vflowopt.strategies.provenance import Provenance


def fitted_provenance(fitting: Fitting, model: str, num_layers: int, samples: int, source: str) -> Provenance:
    """Where a strategy comes from that was fitted to so many samples of a model."""
    return Provenance(
        model=model, budget=fitting.budget, num_layers=num_layers, samples=samples, source=source,
        versions=installed_versions(),
    )  # fmt: skip


def check_observable(adapter: object, name: str) -> FittingAdapter:
    """The adapter, if methods can be fitted with it.

    Raises:
        UnsupportedOperationError: it is called ``name`` and cannot observe what samples receive.
    """
    if not isinstance(adapter, FittingAdapter):
        raise UnsupportedOperationError(
            f"adapter {name!r} has no received_attention(): methods cannot be fitted to samples with it; ask its "
            f"authors for it"
        )
    return adapter


def observe(loaded: LoadedModel, inputs: Iterable[Inputs], *, ranks: bool = False) -> Sequence[ReceivedAttention]:
    """What the visual tokens of some samples receive in every decoder layer of the unpruned model.

    Args:
        loaded: the model.
        inputs: processor outputs.
        ranks: whether ranks are wanted, see :attr:`vflowopt.components.stage_scoring.FittedScorer.fits_to_ranks`.

    Raises:
        UnsupportedOperationError: the model's adapter cannot observe it.
        InputError: no samples, or one without visual tokens.
    """
    adapter = check_observable(loaded.adapter, loaded.adapter.name)
    wanted = {"ranks": True} if ranks else {}  # adapters that know nothing of ranks serve the other methods
    return adapter.received_attention(loaded.model, inputs, processor=loaded.processor, **wanted)
