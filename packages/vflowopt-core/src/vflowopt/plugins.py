"""Discovery of plugins: each entry point is loaded on its own, and what fails is named instead of raised."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from vflowopt import hookspecs
from vflowopt.adapter import Adapter, AdapterDescriptor, NamedModel
from vflowopt.baselines import BASELINES
from vflowopt.components import Component
from vflowopt.errors import PluginError, UnsupportedModelError
from vflowopt.recycle import GridRecycler
from vflowopt.schedule import Progressive
from vflowopt.scorer import CalibratedAttention

GROUP = "vflowopt"
CORE_COMPONENTS: tuple[type[Component], ...] = (
    CalibratedAttention,
    Progressive,
    GridRecycler,
    *BASELINES,
)


@dataclass(frozen=True)
class PluginFailure:
    """A plugin that could not be used: where from, at which step, and why."""

    name: str
    distribution: str
    version: str
    stage: str
    cause: str

    def __str__(self) -> str:
        return f"plugin {self.name!r} of {self.distribution} {self.version} failed to {self.stage}: {self.cause}"


@dataclass(frozen=True)
class Registration:
    """An adapter with the distribution that provides it."""

    descriptor: AdapterDescriptor
    plugin: str
    distribution: str
    version: str


@dataclass
class Plugins:
    """All that installed plugins provide, and what went wrong with any of them."""

    components: dict[str, dict[str, type[Component]]] = field(default_factory=dict)
    adapters: list[Registration] = field(default_factory=list)
    models: dict[str, NamedModel] = field(default_factory=dict)
    failures: list[PluginFailure] = field(default_factory=list)

    def add_component(self, component: type[Component]) -> None:
        """Register a component by its name.

        Raises:
            PluginError: not a component class, or another one has its name.
        """
        if not (isinstance(component, type) and issubclass(component, Component)):
            raise PluginError(f"{component!r} is not a Component class")
        known = self.components.setdefault(component.kind, {})
        name = component.component_name()
        if known.setdefault(name, component) is not component:
            raise PluginError(f"two {component.kind}s are called {name!r}: {known[name]} and {component}")

    def add_model(self, model: NamedModel) -> None:
        """Register a model by its short name.

        Raises:
            PluginError: another one has its name.
        """
        if self.models.setdefault(model.name, model) is not model:
            raise PluginError(f"two models are called {model.name!r}")

    def add(self, components: Iterable[type[Component]], models: Iterable[NamedModel]) -> None:
        """Register what one plugin provides: all of it, or, if anything is refused, nothing.

        Raises:
            PluginError: see :meth:`add_component` and :meth:`add_model`.
        """
        trial = Plugins({kind: dict(known) for kind, known in self.components.items()}, models=dict(self.models))
        for component in components:
            trial.add_component(component)
        for model in models:
            trial.add_model(model)
        self.components, self.models = trial.components, trial.models

    def adapter_for(self, model_type: str) -> AdapterDescriptor:
        """The one adapter that claims a ``config.model_type``.

        Raises:
            UnsupportedModelError: none does, or several do; says what to install or uninstall.
        """
        claims = [entry for entry in self.adapters if model_type in entry.descriptor.model_types]
        if len(claims) > 1:
            names = " and ".join(f"{c.descriptor.name!r} of {c.distribution} {c.version}" for c in claims)
            raise UnsupportedModelError(f"model type {model_type!r} is claimed by {names}; uninstall all but one")
        if not claims:
            raise UnsupportedModelError(self._unclaimed(model_type))
        return claims[0].descriptor

    def _unclaimed(self, model_type: str) -> str:
        known = sorted({kind for entry in self.adapters for kind in entry.descriptor.model_types})
        package = OFFICIAL_ADAPTERS.get(model_type)
        remedy = f"pip install {package}" if package else "install or write an adapter for it (docs/adapter-guide.md)"
        broken = f"; also, {'; '.join(map(str, self.failures))}" if self.failures else ""
        return (
            f"no installed adapter supports model type {model_type!r}: {remedy}. "
            f"Supported here: {', '.join(known) or 'none, as no adapter package is installed'}{broken}"
        )


OFFICIAL_ADAPTERS = {"llava_onevision": "vflowopt-hf", "qwen2_vl": "vflowopt-qwen"}
"""Which package of this project to install for a model type."""


def discover(found: Iterable[EntryPoint] | None = None) -> Plugins:
    """Load every plugin; one that fails is recorded and harms no other.

    Args:
        found: entry points to load instead of those installed.
    """
    plugins = Plugins()
    for component in CORE_COMPONENTS:
        plugins.add_component(component)
    for point in entry_points(group=GROUP) if found is None else found:
        _load(plugins, point)
    return plugins


def _load(plugins: Plugins, point: EntryPoint) -> None:
    distribution = point.dist.name if point.dist else "an unknown distribution"
    version = point.dist.version if point.dist else "?"
    stage = "import"
    # Each plugin gets a manager of its own, so that a bad one cannot disturb the calls to the others.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        module = point.load()
        stage = "register"
        manager.register(module, name=point.name)
        manager.check_pending()
        stage = "list components"
        components = _flatten(manager.hook.vflowopt_components(), type)
        stage = "list adapters"
        adapters = _flatten(manager.hook.vflowopt_adapters(), AdapterDescriptor)
        stage = "list models"
        models = _flatten(manager.hook.vflowopt_models(), NamedModel)
        stage = "register what it provides"
        plugins.add(components, models)
    except (Exception, SystemExit) as error:  # a third party's code: any failure of it is reported, not ours to raise
        cause = f"{type(error).__name__}: {error}"
        plugins.failures.append(PluginFailure(point.name, distribution, version, stage, cause))
        return
    plugins.adapters.extend(Registration(adapter, point.name, distribution, version) for adapter in adapters)


def _flatten(results: list[Iterable[Any]], expected: type) -> list[Any]:
    values = [value for result in results for value in result]
    for value in values:
        if not isinstance(value, expected):
            raise PluginError(f"a hook returned {value!r} where {expected.__name__} is expected")
    return values


@cache
def installed() -> Plugins:
    """The plugins of this environment, discovered once per process."""
    return discover()


def component_types(kind: str) -> dict[str, type[Component]]:
    """Installed components of a kind ("scorer", "schedule", "recycler") by name."""
    return installed().components.get(kind, {})


def find_adapter(model: Any) -> Adapter:
    """The adapter for a loaded model, by its ``config.model_type``.

    Raises:
        UnsupportedModelError: the object has no ``config.model_type``, or not exactly one adapter claims it, or its
            adapter cannot be imported.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
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
    descriptor = installed().adapter_for(model_type)
    try:
        return descriptor.load()
    except Exception as error:  # a third party's import, of a framework at that, can fail in any way
        cause = f"{type(error).__name__}: {error}"
        raise UnsupportedModelError(f"adapter {descriptor.name!r} cannot be imported: {cause}") from error
