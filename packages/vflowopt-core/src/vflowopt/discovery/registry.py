"""Discovery of plugins: each entry point is loaded on its own, and what fails is named instead of raised.

What happens when installed plugins disagree:

- One that cannot be loaded, is written for a newer plugin API, or provides something invalid, is a
  :class:`PluginFailure`. Nothing of it is registered; all others are.
- One plugin object under two entry points, or one adapter registered by two plugins, counts once: it makes no
  difference which of them is used.
- Copies of a distribution, two plugins of one name, and two adapters that claim one model type are a
  :class:`Conflict`. Only a contested model type cannot be used; see :meth:`Plugins.registration_for`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import Distribution, distributions
from typing import Any

import pluggy

from vflowopt import hookspecs
from vflowopt.components import Component
from vflowopt.components.baselines import BASELINES
from vflowopt.components.mass import LogMass
from vflowopt.components.recycle import GridRecycler
from vflowopt.components.schedule import Progressive
from vflowopt.components.scorer import CalibratedAttention
from vflowopt.descriptors import AdapterDescriptor, NamedModel
from vflowopt.discovery.refusals import refusal
from vflowopt.discovery.sources import Conflict, PluginFailure, Source, installed_twice, read_sources
from vflowopt.errors import PluginError, UnsupportedModelError
from vflowopt.methods import METHODS

CORE_COMPONENTS: tuple[type[Component], ...] = (
    CalibratedAttention,
    Progressive,
    GridRecycler,
    LogMass,
    *BASELINES,
    *METHODS,
)


@dataclass(frozen=True)
class Registration:
    """An adapter and the plugin that provides it."""

    descriptor: AdapterDescriptor
    source: Source

    @property
    def plugin(self) -> str:
        """Name of the entry point."""
        return self.source.point.name

    @property
    def distribution(self) -> str:
        """Name of the distribution."""
        return self.source.distribution

    @property
    def version(self) -> str:
        """Version of the distribution."""
        return self.source.version

    def __str__(self) -> str:
        return f"{self.descriptor.name!r} of {self.distribution} {self.version}"


@dataclass
class Plugins:
    """All that installed plugins provide, and what went wrong with any of them."""

    components: dict[str, dict[str, type[Component]]] = field(default_factory=dict)
    adapters: list[Registration] = field(default_factory=list)
    models: dict[str, NamedModel] = field(default_factory=dict)
    failures: list[PluginFailure] = field(default_factory=list)
    copies: list[Conflict] = field(default_factory=list)

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

    def claims(self, model_type: str) -> list[Registration]:
        """Who claims a ``config.model_type``; one claim for several registrations of one adapter object."""
        found = [entry for entry in self.adapters if model_type in entry.descriptor.model_types]
        return list({entry.descriptor.target: entry for entry in reversed(found)}.values())[::-1]

    @property
    def conflicts(self) -> list[Conflict]:
        """Everything that several plugins claim: distributions, names, model types."""
        kinds = sorted({kind for entry in self.adapters for kind in entry.descriptor.model_types})
        contested = [(kind, claims) for kind in kinds if len(claims := self.claims(kind)) > 1]
        return [*self.copies, *(_contested(kind, claims) for kind, claims in contested)]

    def registration_for(self, model_type: str) -> Registration:
        """The one adapter that claims a ``config.model_type``, and where it is from.

        Raises:
            UnsupportedModelError: none does, or several do; says what to install or uninstall.
        """
        claims = self.claims(model_type)
        if len(claims) > 1:
            names = " and ".join(map(str, claims))
            raise UnsupportedModelError(
                f"model type {model_type!r} is claimed by {names}; {_contested(model_type, claims).effect}"
            )
        if not claims:
            raise UnsupportedModelError(self._unclaimed(model_type))
        return claims[0]

    def adapter_for(self, model_type: str) -> AdapterDescriptor:
        """The descriptor of :meth:`registration_for`."""
        return self.registration_for(model_type).descriptor

    def _unclaimed(self, model_type: str) -> str:
        claimed = {kind for entry in self.adapters for kind in entry.descriptor.model_types}
        broken = f"; also, {'; '.join(map(str, self.failures))}" if self.failures else ""
        return f"{refusal(model_type, claimed)}{broken}"


def discover(found: Iterable[Distribution] | None = None) -> Plugins:
    """Load every plugin; one that fails is recorded and harms no other.

    Args:
        found: distributions to look at, by default all that are installed.
    """
    plugins = Plugins()
    for component in CORE_COMPONENTS:
        plugins.add_component(component)
    sources, plugins.failures = read_sources(distributions() if found is None else found)
    loaded: list[Any] = []
    for copies in sources:
        twice = installed_twice(copies)
        if twice and twice not in plugins.copies:
            plugins.copies.append(twice)
        _load(plugins, copies[0], loaded)
    plugins.copies += _namesakes([copies[0] for copies in sources])
    return plugins


def _load(plugins: Plugins, source: Source, loaded: list[Any]) -> None:
    name = source.point.name
    stage = "import"
    # Each plugin gets a manager of its own, so that a bad one cannot disturb the calls to the others.
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        module = source.point.load()
        if any(module is known for known in loaded):
            return
        loaded.append(module)
        stage = "match the plugin API"
        hookspecs.check_api(module)
        stage = "register"
        manager.register(module, name=name)
        manager.check_pending()
        if not manager.get_hookcallers(module):
            raise PluginError("it implements no hook; mark its functions with vflowopt.hookspecs.hookimpl")
        stage = "list components"
        components = _flatten(manager.hook.vflowopt_components(), type)
        stage = "list adapters"
        adapters = _flatten(manager.hook.vflowopt_adapters(), AdapterDescriptor)
        stage = "list models"
        models = _flatten(manager.hook.vflowopt_models(), NamedModel)
        stage = "register what it provides"
        plugins.add(components, models)
    except (Exception, SystemExit) as error:  # a third party's code: any failure of it is reported, not ours to raise
        failure = PluginFailure(name, source.distribution, source.version, stage, cause_of(error))
        plugins.failures.append(failure)
        return
    known = [entry.descriptor for entry in plugins.adapters]
    plugins.adapters.extend(Registration(adapter, source) for adapter in adapters if adapter not in known)


def cause_of(error: BaseException) -> str:
    """What went wrong, in one line; errors of other kinds than ours with their type."""
    return str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"


def _flatten(results: list[Iterable[Any]], expected: type) -> list[Any]:
    values = [value for result in results for value in result]
    for value in values:
        if not isinstance(value, expected):
            raise PluginError(f"a hook returned {value!r} where {expected.__name__} is expected")
    return values


def _namesakes(sources: list[Source]) -> list[Conflict]:
    """Plugins of different distributions that share a name, but not the object behind it."""
    found = []
    for name in sorted({source.point.name for source in sources}):
        same = [source for source in sources if source.point.name == name]
        if len({source.point.value for source in same}) > 1:
            effect = "all of them are used: only messages that name the plugin are ambiguous"
            found.append(Conflict("plugin name", name, tuple(map(str, same)), effect))
    return found


def _contested(model_type: str, claims: list[Registration]) -> Conflict:
    packages = sorted({claim.distribution for claim in claims})
    remedy = " or ".join(f"pip uninstall {package}" for package in packages)
    places = tuple(f"{claim.descriptor.name!r} of {claim.source}" for claim in claims)
    return Conflict("model type", model_type, places, f"it cannot be used; uninstall all but one: {remedy}")


@cache
def installed() -> Plugins:
    """The plugins of this environment, discovered once per process."""
    return discover()


def component_types(kind: str) -> dict[str, type[Component]]:
    """Installed components of a kind ("scorer", "schedule", "recycler", "mass") by name."""
    return installed().components.get(kind, {})
