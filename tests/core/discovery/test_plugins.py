"""Discovery of plugins: real distributions on disk, healthy and broken ones side by side."""

import sys
from importlib.metadata import distributions
from textwrap import dedent
from types import SimpleNamespace

import pytest

from vflowopt import Strategy, plugins, prune
from vflowopt.components.recycle import GridRecycler
from vflowopt.components.schedule import Progressive
from vflowopt.components.scorer import CalibratedAttention
from vflowopt.discovery import registry
from vflowopt.errors import PluginError, StrategyError, UnsupportedModelError
from vflowopt.plugins import Plugins, discover, find_adapter, load_adapter

HEADER = """
from typing import Literal
from vflowopt.adapter import AdapterDescriptor, NamedModel
from vflowopt.components import Recycler, Score, Scorer
from vflowopt.hookspecs import hookimpl
"""

GOOD = """
class Flat(Scorer):
    name: Literal["{name}-scorer"] = "{name}-scorer"
    depth: int = 1
    def score(self, context): ...

@hookimpl
def vflowopt_components():
    return [Flat]

@hookimpl
def vflowopt_adapters():
    return [AdapterDescriptor("{name}", ("{name}_lmm", "{name}_video"), "{name}_runtime:ADAPTER")]

@hookimpl
def vflowopt_models():
    return [NamedModel("{name}-model", "", "{name}_lmm", path=lambda: None)]
"""

RUNTIME = """
class ADAPTER:
    name = "toy"
    prune = staticmethod(lambda *positional, **named: (positional, named))
    num_layers = evaluator = shapes = benchmark = load = staticmethod(print)
"""


class Environment:
    """A site directory in which distributions with one plugin each are installed."""

    def __init__(self, path):
        self.path = path

    def install(self, name, source, *, version="1.0", header=HEADER):
        """A distribution ``name-plugin`` whose entry point ``name`` is the module ``name_plugin``."""
        self.module(f"{name}_plugin", header + dedent(source))
        info = self.path / f"{name}_plugin-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[vflowopt]\n{name} = {name}_plugin\n")

    def module(self, name, source):
        (self.path / f"{name}.py").write_text(source)

    def discover(self):
        return discover(distributions(path=[str(self.path)]))


@pytest.fixture
def environment(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    yield Environment(tmp_path)
    for name in set(sys.modules) - known:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in sys.modules[name].__file__:
            del sys.modules[name]


@pytest.fixture
def use(monkeypatch):
    """Make plugins the installed ones."""

    def install(found):
        for module in (registry, plugins):
            monkeypatch.setattr(module, "installed", lambda: found)

    return install


def assert_usable(found, name):
    """The plugin ``name``, made of GOOD, works in full."""
    assert f"{name}-scorer" in found.components["scorer"]
    assert found.adapter_for(f"{name}_lmm").name == name
    assert f"{name}-model" in found.models


def test_the_core_components_are_always_there():
    found = discover([])
    assert found.components["scorer"]["calibrated-attention"] is CalibratedAttention
    assert found.components["schedule"]["progressive"] is Progressive
    assert found.components["recycler"]["grid"] is GridRecycler
    registered = [component for known in found.components.values() for component in known.values()]
    assert set(registered) == set(registry.CORE_COMPONENTS)
    assert found.adapters == found.failures == []


def test_a_plugin_provides_components_adapters_and_models(environment, use):
    environment.install("good", GOOD.format(name="good"), version="2.3")
    found = environment.discover()
    assert found.failures == []
    assert_usable(found, "good")
    (entry,) = found.adapters
    assert (entry.plugin, entry.distribution, entry.version) == ("good", "good-plugin", "2.3")
    use(found)
    strategy = Strategy.parse(
        '{"format": "vflowopt/strategy/1", "scorer": {"name": "good-scorer", "depth": 4}, '
        '"schedule": {"name": "progressive", "stages": [0], "retention": [0.5]}}'
    )
    assert strategy.scorer == found.components["scorer"]["good-scorer"](depth=4)
    assert Strategy.parse(strategy.to_json()) == strategy
    with pytest.raises(StrategyError, match=r"scorer\.depth: .*integer"):
        Strategy.parse(strategy.to_json().replace("4", '"deep"'))


BROKEN = {
    "raises at import": ("raise RuntimeError('libfoo.so is missing')", "import", "RuntimeError: libfoo.so is missing"),
    "misses a module": ("import no_such_module", "import", "ModuleNotFoundError: No module named 'no_such_module'"),
    "is not Python": ("def (:", "import", "SyntaxError"),
    "exits": ("raise SystemExit(3)", "import", "SystemExit: 3"),
    "misspells a hook": ("@hookimpl\ndef vflowopt_adaptres(): ...", "register", "unknown hook 'vflowopt_adaptres'"),
    "mistakes a signature": (
        "@hookimpl\ndef vflowopt_adapters(model): ...",
        "register",
        "vflowopt_adapters.*\n.*'model'",
    ),
    "raises in a hook": ("@hookimpl\ndef vflowopt_models():\n    return 1 / 0", "list models", "ZeroDivisionError"),
    "returns a number": (
        "@hookimpl\ndef vflowopt_adapters():\n    return 42",
        "list adapters",
        "'int' object is not iter",
    ),
    "returns garbage": (
        "@hookimpl\ndef vflowopt_adapters():\n    return ['llava']",
        "list adapters",
        "a hook returned 'llava' where AdapterDescriptor is expected",
    ),
    "returns a foreign class": (
        "@hookimpl\ndef vflowopt_components():\n    return [int]",
        "register",
        "<class 'int'> is not a Component class",
    ),
    "returns an instance": (
        "class S(Scorer):\n    name: Literal['s'] = 's'\n    def score(self, context): ...\n"
        "@hookimpl\ndef vflowopt_components():\n    return [S()]",
        "list components",
        "where type is expected",
    ),
    "names model types as one text": (
        "@hookimpl\ndef vflowopt_adapters():\n    return [AdapterDescriptor('x', 'llava_onevision', 'm:a')]",
        "list adapters",
        "model_types must be a tuple of names, not 'llava_onevision'",
    ),
    "claims nothing": (
        "@hookimpl\ndef vflowopt_adapters():\n    return [AdapterDescriptor('x', (), 'm:a')]",
        "list adapters",
        r"model_types must be a tuple of names, not \(\)",
    ),
    "points at a module": (
        "@hookimpl\ndef vflowopt_adapters():\n    return [AdapterDescriptor('x', ('llama',), 'm')]",
        "list adapters",
        "target must be 'module:attribute', not 'm'",
    ),
    "gives a path for a function": (
        "@hookimpl\ndef vflowopt_models():\n    return [NamedModel('x', '', 'llava', path='/models')]",
        "list models",
        "path must be a function that returns a directory, not '/models'",
    ),
    "forgets the marker": ("def vflowopt_adapters():\n    return []", "register", "implements no hook; mark"),
    "names no component": (
        "class Nameless(Scorer):\n    def score(self, context): ...\n"
        "@hookimpl\ndef vflowopt_components():\n    return [Nameless]",
        "register",
        "Nameless must declare its name",
    ),
    "takes a core component's name": (
        "class Mine(Recycler):\n    name: Literal['grid'] = 'grid'\n    def merge(self, *args): ...\n"
        "@hookimpl\ndef vflowopt_components():\n    return [Mine]",
        "register",
        "two recyclers are called 'grid': .*GridRecycler.* and .*Mine",
    ),
}


@pytest.mark.parametrize(("source", "stage", "cause"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_named_and_harms_no_other(environment, source, stage, cause):
    environment.install("aardvark", GOOD.format(name="aardvark"))
    environment.install("broken", source, version="0.9")
    environment.install("zebra", GOOD.format(name="zebra"))
    found = environment.discover()
    (failure,) = found.failures
    assert (failure.name, failure.distribution, failure.version) == ("broken", "broken-plugin", "0.9")
    assert failure.stage.startswith(stage)
    with pytest.raises(AssertionError, match=cause):
        raise AssertionError(failure.cause)
    assert str(failure).startswith(f"plugin 'broken' of broken-plugin 0.9 failed to {stage}")
    assert_usable(found, "aardvark")
    assert_usable(found, "zebra")
    assert len(found.adapters) == 2


def test_a_plugin_is_registered_whole_or_not_at_all(environment):
    """The second plugin repeats a name of the first: nothing of it is left, neither component nor adapter nor model."""
    environment.install("first", GOOD.format(name="first"))
    clash = GOOD.format(name="second").replace("second-scorer", "first-scorer")
    extra = "\nclass Extra(Flat):\n    name: Literal['extra'] = 'extra'\n"
    environment.install("second", clash.replace("return [Flat]", "return [Extra, Flat]") + extra)
    environment.install("third", GOOD.format(name="third").replace("third-model", "first-model"))
    found = environment.discover()
    assert [failure.name for failure in found.failures] == ["second", "third"]
    assert "two scorers are called 'first-scorer'" in found.failures[0].cause
    assert "two models are called 'first-model'" in found.failures[1].cause
    assert_usable(found, "first")
    assert set(found.components["scorer"]) == {*discover([]).components["scorer"], "first-scorer"}
    assert set(found.models) == {"first-model"}
    assert [entry.plugin for entry in found.adapters] == ["first"]


@pytest.mark.parametrize(
    ("metadata", "points", "reported"),
    [
        (None, "[vflowopt]\ndamaged = damaged_plugin\n", True),
        ("Metadata-Version: 2.1\n", "[vflowopt]\nno equals sign\n", True),
        ("Metadata-Version: 2.1\nName: x\nVersion: 1\n", "[console_scripts]\nno equals sign\n", False),
    ],
)
def test_damaged_metadata_harms_no_other(environment, metadata, points, reported):
    environment.install("good", GOOD.format(name="good"))
    info = environment.path / "damaged-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(points)
    if metadata:
        (info / "METADATA").write_text(metadata)
    found = environment.discover()
    assert_usable(found, "good")
    assert [str(environment.path) in failure.distribution for failure in found.failures] == [True] * reported


@pytest.mark.parametrize(("stated", "accepted"), [("", True), ("vflowopt_api = 1", True), ("vflowopt_api = 2", False)])
def test_a_plugin_for_a_newer_interface_is_refused_before_its_hooks_are_looked_at(environment, stated, accepted):
    hook = "" if accepted else "\n@hookimpl\ndef vflowopt_hook_of_the_future(): ...\n"
    environment.install("good", GOOD.format(name="good") + hook + stated)
    found = environment.discover()
    if accepted:
        assert_usable(found, "good")
        return
    (failure,) = found.failures
    assert failure.stage == "match the plugin API"
    assert failure.cause == "needs vflowopt plugin API 2, this vflowopt-core has 1: upgrade vflowopt-core"
    assert found.adapters == []


@pytest.mark.parametrize("stated", ["0", "True", "'1'", "None"])
def test_a_version_of_the_interface_is_a_whole_number(environment, stated):
    environment.install("good", GOOD.format(name="good") + f"vflowopt_api = {stated}")
    (failure,) = environment.discover().failures
    assert "vflowopt_api must be a whole number from 1 to 1" in failure.cause


def test_registering_the_same_component_twice_is_no_conflict():
    found = Plugins()
    found.add_component(CalibratedAttention)
    found.add_component(CalibratedAttention)
    with pytest.raises(PluginError, match="not a Component class"):
        found.add_component(CalibratedAttention())


# From a model to its adapter.


def model_of(model_type):
    return SimpleNamespace(config=SimpleNamespace(model_type=model_type))


def test_one_plugin_under_two_entry_points_counts_once(environment):
    """A distribution that was renamed: both bring the same module."""
    environment.install("old", GOOD.format(name="old"))
    environment.install("new", "")
    (environment.path / "new_plugin-1.0.dist-info/entry_points.txt").write_text("[vflowopt]\nold = old_plugin\n")
    found = environment.discover()
    assert found.failures == found.conflicts == []
    assert len(found.adapters) == 1
    assert_usable(found, "old")


def test_one_adapter_registered_by_two_plugins_counts_once(environment):
    environment.install("first", GOOD.format(name="first"))
    environment.install("second", "from first_plugin import vflowopt_adapters")
    found = environment.discover()
    assert found.failures == found.conflicts == []
    assert len(found.adapters) == 1
    assert_usable(found, "first")


def test_plugins_of_one_name_are_told_and_all_used(environment):
    environment.install("left", GOOD.format(name="left"))
    environment.install("right", GOOD.format(name="right"))
    (environment.path / "right_plugin-1.0.dist-info/entry_points.txt").write_text("[vflowopt]\nleft = right_plugin\n")
    found = environment.discover()
    (conflict,) = found.conflicts
    assert (conflict.kind, conflict.name) == ("plugin name", "left")
    assert [claim.split(" in ")[0] for claim in conflict.claims] == ["left-plugin 1.0", "right-plugin 1.0"]
    assert_usable(found, "left")
    assert_usable(found, "right")


def test_two_adapters_that_claim_a_model_are_both_named(environment, use):
    environment.install("left", GOOD.format(name="left").replace('"left_video"', '"shared"'), version="1.2")
    environment.install("right", GOOD.format(name="right").replace('"right_video"', '"shared"'), version="3.4")
    found = environment.discover()
    use(found)
    with pytest.raises(
        UnsupportedModelError,
        match=r"'shared' is claimed by 'left' of left-plugin 1.2 and 'right' of right-plugin 3.4; .*uninstall all but "
        "one: pip uninstall left-plugin or pip uninstall right-plugin",
    ):
        find_adapter(model_of("shared"))
    assert_usable(found, "left")
    assert_usable(found, "right")


def test_the_adapter_that_claims_a_model_is_imported_only_then(environment, use):
    environment.install("good", GOOD.format(name="good"))
    environment.module("good_runtime", RUNTIME)
    use(environment.discover())
    assert "good_runtime" not in sys.modules
    assert find_adapter(model_of("good_video")) is load_adapter("good_lmm") is sys.modules["good_runtime"].ADAPTER


def test_prune_goes_through_the_adapter(environment, use):
    environment.install("good", GOOD.format(name="good"))
    environment.module("good_runtime", RUNTIME)
    use(environment.discover())
    model, strategy = model_of("good_lmm"), Strategy.preset("llava-onevision-7b/25")
    assert prune(model, strategy, processor="p") == ((model, strategy), {"processor": "p"})


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        (None, "ModuleNotFoundError: No module named 'good_runtime'"),
        ("", "AttributeError: .*ADAPTER"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "RuntimeError: operator torchvision::nms"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_an_adapter_that_cannot_be_imported_is_named_with_its_cause(environment, use, source, cause):
    environment.install("good", GOOD.format(name="good"))
    if source is not None:
        environment.module("good_runtime", source)
    use(environment.discover())
    with pytest.raises(UnsupportedModelError, match=f"adapter 'good' of good-plugin 1.0 cannot be imported: {cause}"):
        find_adapter(model_of("good_lmm"))


def test_an_adapter_that_is_none_is_refused(environment, use):
    environment.install("good", GOOD.format(name="good"))
    environment.module("good_runtime", "ADAPTER = 'an adapter'")
    use(environment.discover())
    with pytest.raises(
        UnsupportedModelError, match=r"'good' of good-plugin 1.0 .*'good_runtime:ADAPTER' is a str with"
    ):
        find_adapter(model_of("good_lmm"))


def test_a_missing_adapter_names_the_package_to_install(use):
    use(discover([]))
    with pytest.raises(UnsupportedModelError, match=r"'llava_onevision': pip install vflowopt-hf$"):
        find_adapter(model_of("llava_onevision"))


def test_an_unknown_model_names_what_is_supported_and_what_is_broken(environment, use):
    environment.install("good", GOOD.format(name="good"))
    environment.install("broken", "import no_such_module", version="0.9")
    use(environment.discover())
    with pytest.raises(UnsupportedModelError) as caught:
        find_adapter(model_of("new_lmm"))
    message = str(caught.value)
    assert "no installed adapter supports model type 'new_lmm'" in message
    assert "by name 'good_lmm' is the nearest" in message
    assert "adapter-guide" in message
    assert "'vflowopt adapters' lists the supported types" in message
    assert "plugin 'broken' of broken-plugin 0.9 failed to import" in message


@pytest.mark.parametrize("model", [object(), SimpleNamespace(config=None), model_of(None), model_of(3)])
def test_an_object_that_is_no_model_is_refused(model):
    with pytest.raises(UnsupportedModelError, match=r"has no config\.model_type; pass a model loaded with"):
        find_adapter(model)
