"""Every error that vflowopt raises on purpose.

All derive from :class:`VFlowOptError`, so one ``except`` is enough. Each message names the offending value and the
remedy. Errors that mean "this argument is wrong" are also :class:`ValueError`.
"""


class VFlowOptError(Exception):
    """Base class of all errors raised by vflowopt and its adapters."""


class StrategyError(VFlowOptError, ValueError):
    """A strategy, or a file that should hold one, is malformed or does not fit the model."""


class BudgetError(VFlowOptError, ValueError):
    """A budget (average retention) is outside (0, 1] or cannot be met by the given input."""


class CostError(VFlowOptError, ValueError):
    """A cost model, or a file that should hold one, is malformed or was calibrated for something else."""


class ImportanceError(VFlowOptError, ValueError):
    """An importance map has the wrong shape or holds a value that is not finite."""


class InputError(VFlowOptError, ValueError):
    """Inputs to a model, a sample set or a file given by the user cannot be used."""


class UnsupportedModelError(VFlowOptError, TypeError):
    """No installed adapter supports the model, or more than one claims it."""


class UnsupportedOperationError(VFlowOptError):
    """The model is supported, but not together with this cache, mask or argument."""


class PruningStateError(VFlowOptError, RuntimeError):
    """The model or the cache is not in the state that the call needs."""


class ProcessError(VFlowOptError, RuntimeError):
    """One of several processes that share a search failed, or the others lost contact with it."""


class PluginError(VFlowOptError):
    """A plugin could not be loaded or registered something invalid."""


class JournalError(VFlowOptError, ValueError):
    """A search journal is unreadable or belongs to another search."""


class OutputError(VFlowOptError, ValueError):
    """A file cannot be written, or something that vflowopt did not write would be lost."""


def shown(value: object, limit: int = 60) -> str:
    """A value as it may stand in a message: on one line, its middle left out if it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a value of which not even this can be told
        text = f"a {type(value).__name__}"
    return text if len(text) <= limit else f"{text[: limit - 20]} ... {text[-15:]}"


def named(path: object) -> str:
    """A path as it may stand in a message."""
    return shown(str(path), limit=200)
