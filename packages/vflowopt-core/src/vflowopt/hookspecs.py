"""What a plugin can provide. Entry-point group ``vflowopt``; hook implementations are marked with ``hookimpl``.

Hooks return light, lazy descriptors: importing a plugin must not import torch.
"""

from collections.abc import Iterable

import pluggy

from vflowopt.adapter import AdapterDescriptor, NamedModel
from vflowopt.components import Component

PROJECT = "vflowopt"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def vflowopt_components() -> Iterable[type[Component]]:  # type: ignore[empty-body]
    """Scorers, schedules and recyclers to make available by name in strategy files."""


@hookspec
def vflowopt_adapters() -> Iterable[AdapterDescriptor]:  # type: ignore[empty-body]
    """Model families that the plugin supports."""


@hookspec
def vflowopt_models() -> Iterable[NamedModel]:  # type: ignore[empty-body]
    """Models that ``--model`` knows by a short name, such as ``reference``."""
