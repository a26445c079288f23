"""What a plugin can provide. Entry-point group ``vflowopt``; hook implementations are marked with ``hookimpl``.

Hooks return light, lazy descriptors: importing a plugin must not import torch.

A plugin states the version of this interface that it is written for as an attribute of the module (or object) that its
entry point names: ``vflowopt_api = 1``. Without one it is taken to be 1. It is checked before any hook is looked at, so
that a plugin for a newer interface is refused with one clear line instead of a puzzling error.
"""

from collections.abc import Iterable
from typing import Any

import pluggy

from vflowopt.components import Component
from vflowopt.descriptors import AdapterDescriptor, NamedModel
from vflowopt.errors import PluginError

PROJECT = "vflowopt"
API_VERSION = 1
"""Version of what plugins are written against: hooks, descriptors, components, the adapter protocol. It grows when a
plugin can use something that older cores lack."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def vflowopt_components() -> Iterable[type[Component]]:  # type: ignore[empty-body]
    """Scorers, schedules, recyclers and masses to make available by name in strategy files."""


@hookspec
def vflowopt_adapters() -> Iterable[AdapterDescriptor]:  # type: ignore[empty-body]
    """Model families that the plugin supports."""


@hookspec
def vflowopt_models() -> Iterable[NamedModel]:  # type: ignore[empty-body]
    """Models that ``--model`` knows by a short name, such as ``reference``."""


def check_api(plugin: Any) -> None:
    """Check the version of the interface that a plugin states.

    Raises:
        PluginError: it is newer than :data:`API_VERSION`, or no version.
    """
    wanted = getattr(plugin, "vflowopt_api", 1)
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise PluginError(f"vflowopt_api must be a whole number from 1 to {API_VERSION}, not {wanted!r}")
    if wanted > API_VERSION:
        raise PluginError(
            f"needs vflowopt plugin API {wanted}, this vflowopt-core has {API_VERSION}: upgrade vflowopt-core"
        )
