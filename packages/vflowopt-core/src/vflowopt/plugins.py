"""The adapters and components that are installed here: find and import them."""

from typing import Any

from vflowopt.adapter import Adapter
from vflowopt.discovery.registry import Plugins, Registration, cause_of, component_types, discover, installed
from vflowopt.discovery.wrapping import unwrap
from vflowopt.errors import UnsupportedModelError

__all__ = [
    "Plugins",
    "Registration",
    "component_types",
    "discover",
    "find_adapter",
    "import_adapter",
    "installed",
    "load_adapter",
]


def find_adapter(model: Any) -> Adapter:
    """The adapter for a loaded model, by its ``config.model_type``; the model may be wrapped, for example by PEFT.

    Raises:
        UnsupportedOperationError: it is wrapped in what cannot be pruned through.
        UnsupportedModelError: the object has no ``config.model_type``, or not exactly one adapter claims it, or its
            adapter cannot be imported.
    """
    model_type = getattr(getattr(unwrap(model), "config", None), "model_type", None)
    if not isinstance(model_type, str):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no config.model_type; pass a model loaded with transformers' from_pretrained"
        )
    return load_adapter(model_type)


def load_adapter(model_type: str) -> Adapter:
    """Import the adapter that claims ``model_type``.

    Raises:
        UnsupportedModelError: see :func:`find_adapter`.
    """
    return import_adapter(installed().registration_for(model_type))


def import_adapter(entry: Registration) -> Adapter:
    """Import a registered adapter.

    Raises:
        UnsupportedModelError: that fails, or what its descriptor points to is no adapter.
    """
    try:
        adapter = entry.descriptor.load()
    except (Exception, SystemExit) as error:  # a third party's import, of a framework at that, can fail in any way
        raise UnsupportedModelError(f"adapter {entry} cannot be imported: {cause_of(error)}") from error
    if not isinstance(adapter, Adapter):
        raise UnsupportedModelError(
            f"adapter {entry} cannot be used: {entry.descriptor.target!r} is a {type(adapter).__name__} without all "
            f"members of vflowopt.adapter.Adapter; upgrade {entry.distribution}, or report it to its authors"
        )
    return adapter
