"""What plugins describe without importing it: model families, named models and their examples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from vflowopt.errors import PluginError


@dataclass(frozen=True)
class AdapterDescriptor:
    """A family that a plugin supports, described without importing it.

    Attributes:
        name: shown by ``vflowopt adapters``, for example ``"llava-onevision"``.
        model_types: values of ``model.config.model_type`` that the adapter claims.
        target: ``"module:attribute"`` of the :class:`vflowopt.adapter.Adapter` instance.
        summary: one line for the table.

    Raises:
        PluginError: a field is of another type, or empty where it must not be.
    """

    name: str
    model_types: tuple[str, ...]
    target: str
    summary: str = ""

    def __post_init__(self) -> None:
        for field_name in ("name", "target"):
            _require_text(self, field_name)
        kinds = self.model_types
        if not isinstance(kinds, tuple) or not kinds or not all(isinstance(kind, str) and kind for kind in kinds):
            raise PluginError(f"AdapterDescriptor.model_types must be a tuple of names, not {kinds!r}")
        module, _, attribute = self.target.partition(":")
        if not module or not attribute:
            raise PluginError(f"AdapterDescriptor.target must be 'module:attribute', not {self.target!r}")

    def load(self) -> Any:
        """Import what the target names: an adapter, if the plugin is right.

        Raises:
            ImportError, AttributeError: whatever the import raises; callers name the adapter.
        """
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)


@dataclass(frozen=True)
class Example:
    """A labelled question about images.

    Attributes:
        images: PIL images.
        question: the user's text.
        answer: the expected answer.
        kind: a label by which accuracies are broken down.
    """

    images: tuple[Any, ...]
    question: str
    answer: str
    kind: str = ""


@dataclass(frozen=True)
class NamedModel:
    """A model that ``--model NAME`` knows.

    Attributes:
        name: the short name.
        summary: one line.
        model_type: ``config.model_type``, which selects the adapter.
        path: returns the checkpoint's directory.
        processor: returns its processor; ``None`` where the ordinary one works.
        examples: ``examples(split, count, seed)`` returns held-out examples of the split ``"search"`` or ``"test"``.
        options: further arguments of ``from_pretrained``.
        threads: CPU threads that the command line runs it with; a very small model is fastest with one.

    Raises:
        PluginError: name or model type is no text, or ``path`` no function.
    """

    name: str
    summary: str
    model_type: str
    path: Callable[[], Path]
    processor: Callable[[], Any] | None = None
    examples: Callable[[str, int, int], list[Example]] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None

    def __post_init__(self) -> None:
        for field_name in ("name", "model_type"):
            _require_text(self, field_name)
        if not callable(self.path):
            raise PluginError(f"NamedModel.path must be a function that returns a directory, not {self.path!r}")


def _require_text(descriptor: Any, field_name: str) -> None:
    value = getattr(descriptor, field_name)
    if not isinstance(value, str) or not value:
        raise PluginError(f"{type(descriptor).__name__}.{field_name} must be text, not {value!r}")
