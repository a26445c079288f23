"""Everything that can be wrong with installed plugins at once, on the command line of a fresh interpreter."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from vflowopt.cli import app
from vflowopt.plugins import discover

ADAPTER = """
from vflowopt.adapter import AdapterDescriptor
from vflowopt.hookspecs import hookimpl

@hookimpl
def vflowopt_adapters():
    return [AdapterDescriptor({name!r}, {model_types!r}, {target!r}, "a toy [/family]")]
"""
RUNTIME = """
class ADAPTER:
    name = "toy"
    num_layers = prune = evaluator = shapes = benchmark = load = staticmethod(print)
"""


def install(site, name, source, *, version="1.0", requires=(), runtime=RUNTIME):
    """What pip writes for a distribution ``toy-NAME`` with one plugin."""
    site.mkdir(exist_ok=True)
    (site / f"toy_{name}_plugin.py").write_text(source)
    (site / f"toy_{name}.py").write_text(runtime)
    info = site / f"toy_{name}-{version}.dist-info"
    info.mkdir()
    needed = "".join(f"Requires-Dist: {one}\n" for one in requires)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toy-{name}\nVersion: {version}\n{needed}")
    (info / "entry_points.txt").write_text(f"[vflowopt]\n{name} = toy_{name}_plugin\n")


def adapter(name, *model_types):
    return ADAPTER.format(name=name, model_types=model_types or (f"{name}_lmm",), target=f"toy_{name}:ADAPTER")


def start(program, *sites):
    paths = os.pathsep.join(map(str, sites))
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


LIST = "from vflowopt.cli import app; app(['adapters', '--json'])"


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    """Two directories on ``sys.path`` with every ailment; only ``good``, ``left`` and ``right`` are in order."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    install(first, "good", adapter("good"))
    install(first, "left", adapter("left", "left_lmm", "shared_lmm"))
    install(second, "right", adapter("right", "right_lmm", "shared_lmm"), version="2.0")
    install(first, "twice", adapter("twice"))
    install(second, "twice", adapter("twice"), version="0.9")
    install(first, "needy", adapter("needy"), requires=("no-such-distribution>=1", "numpy", "torch; extra == 'x'"))
    install(first, "newer", adapter("newer") + "vflowopt_api = 2\n")
    install(first, "unimportable", "import no_such_module")
    install(first, "signature", adapter("signature").replace("vflowopt_adapters()", "vflowopt_adapters(model)"))
    install(first, "raising", adapter("raising").replace("return [", "raise OSError('[/disk]'); return ["))
    install(first, "wrong", adapter("wrong").replace("[AdapterDescriptor", "[('a', 'tuple'), AdapterDescriptor"))
    return first, second


@pytest.fixture(scope="module")
def listed(sites):
    done = start(LIST, *sites)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_failure_is_listed_with_its_distribution_and_cause(listed):
    failures = {failure["name"]: failure for failure in listed["failures"] if failure["distribution"][:4] == "toy-"}
    assert {name: failure["stage"] for name, failure in failures.items()} == {
        "newer": "match the plugin API",
        "unimportable": "import",
        "signature": "register",
        "raising": "list adapters",
        "wrong": "list adapters",
    }
    assert all((f["distribution"], f["version"]) == (f"toy-{name}", "1.0") for name, f in failures.items())
    assert "upgrade vflowopt-core" in failures["newer"]["cause"]
    assert "no_such_module" in failures["unimportable"]["cause"]
    assert "'model'" in failures["signature"]["cause"]
    assert failures["raising"]["cause"] == "OSError: [/disk]"
    assert "('a', 'tuple') where AdapterDescriptor is expected" in failures["wrong"]["cause"]


def test_a_distribution_installed_twice_is_told_with_both_places(listed, sites):
    (twice,) = [conflict for conflict in listed["conflicts"] if conflict["kind"] == "distribution"]
    first, second = sites
    assert twice["claims"] == [f"toy-twice 1.0 in {first.resolve()}", f"toy-twice 0.9 in {second.resolve()}"]
    assert twice["effect"].startswith(f"1.0 is taken, and toy_twice_plugin is imported from {first}")
    assert "pip uninstall toy-twice" in twice["effect"]
    (entry,) = [entry for entry in listed["adapters"] if entry["name"] == "twice"]
    assert (entry["version"], entry["place"]) == ("1.0", str(first.resolve()))


def test_a_contested_family_is_told_with_both_distributions(listed, sites):
    (contested,) = [conflict for conflict in listed["conflicts"] if conflict["kind"] == "model type"]
    assert contested["name"] == "shared_lmm"
    assert contested["claims"] == [
        f"'left' of toy-left 1.0 in {sites[0].resolve()}",
        f"'right' of toy-right 2.0 in {sites[1].resolve()}",
    ]
    assert "pip uninstall toy-left or pip uninstall toy-right" in contested["effect"]


def test_all_others_can_be_used(listed):
    toys = {entry["name"]: entry for entry in listed["adapters"] if entry["distribution"][:4] == "toy-"}
    usable = {name: entry["usable"] for name, entry in toys.items()}
    assert usable == {"good": True, "left": True, "right": True, "twice": True, "needy": False}
    assert toys["needy"]["problem"] == "not installed: no-such-distribution"
    assert all(entry["usable"] for entry in listed["adapters"] if entry["distribution"].startswith("vflowopt-"))


def test_families_are_found_beside_what_is_broken(sites):
    program = (
        "from vflowopt.errors import UnsupportedModelError\n"
        "from vflowopt.plugins import load_adapter\n"
        "print(*[load_adapter(f'{name}_lmm').__module__ for name in ('good', 'left', 'right', 'twice')])\n"
        "try:\n    load_adapter('shared_lmm')\nexcept UnsupportedModelError as error:\n    print(error)\n"
    )
    done = start(program, *sites)
    modules, refused = done.stdout.splitlines()
    assert modules.split() == ["toy_good", "toy_left", "toy_right", "toy_twice"]
    assert refused.startswith("model type 'shared_lmm' is claimed by 'left' of toy-left 1.0 and 'right' of toy-right 2")
    assert refused.endswith("uninstall all but one: pip uninstall toy-left or pip uninstall toy-right")


def test_metadata_seen_twice_of_one_source_tree_is_no_conflict(tmp_path, monkeypatch):
    """An editable install: metadata in the source tree, and again where pip writes it; the code is in one place."""
    from importlib.metadata import distributions

    install(tmp_path / "source", "edited", adapter("edited"))
    install(tmp_path / "site", "edited", "")
    for file in ("toy_edited_plugin.py", "toy_edited.py"):
        (tmp_path / "site" / file).unlink()
    for place in ("source", "site"):
        monkeypatch.syspath_prepend(tmp_path / place)
    path = [str(tmp_path / "site"), str(tmp_path / "source"), str(tmp_path / "site")]
    found = discover(distributions(path=path))
    assert found.conflicts == found.failures == []
    assert [entry.descriptor.name for entry in found.adapters] == ["edited"]
    sys.modules.pop("toy_edited_plugin")


@pytest.fixture
def command(tmp_path, monkeypatch):
    """``vflowopt adapters`` where only the given plugins are installed."""
    from importlib.metadata import distributions

    def run(sources, *options, **installed):
        for name, source in sources.items():
            install(tmp_path / "site", name, source, **installed)
        (tmp_path / "site").mkdir(exist_ok=True)
        monkeypatch.syspath_prepend(tmp_path / "site")
        monkeypatch.setenv("COLUMNS", "500")  # the longest place of temporary files fits
        found = discover(distributions(path=[str(tmp_path / "site")]))
        monkeypatch.setattr("vflowopt.cli.adapters.installed", lambda: found)
        return CliRunner().invoke(app, ["adapters", *options])

    yield run
    for name in [name for name in sys.modules if name.startswith("toy_")]:
        del sys.modules[name]


def test_the_table_shows_the_same(command):
    result = command({"a": adapter("a"), "b": adapter("b", "a_lmm", "b_lmm"), "c": "raise OSError('[/disk] full')"})
    assert result.exit_code == 0, result.output
    for text in ("toy-a 1.0", "a toy [/family]", "Conflicts", "model type a_lmm", "'b' of toy-b 1.0 in ", "pip uninst"):
        assert text in result.stdout, text
    assert "no: other adapters claim the same model types" in result.stdout
    assert "Plugins that failed" in result.stdout
    assert "OSError: [/disk] full" in result.stdout


@pytest.mark.parametrize(
    ("sources", "code"),
    [({}, 0), ({"a": "1 / 0"}, 1), ({"a": adapter("a"), "b": adapter("b", "a_lmm")}, 1), ({"a": adapter("a")}, 0)],
)
def test_the_exit_code_tells_that_nothing_can_be_used(command, sources, code):
    assert command(sources).exit_code == code


def test_check_imports_the_adapters(command):
    runtime = "raise RuntimeError('operator torchvision::nms does not exist')"
    unchecked = command({"a": adapter("a")}, "--json", runtime=runtime)
    assert json.loads(unchecked.stdout)["adapters"][0]["usable"]
    checked = command({}, "--check", "--json")
    assert checked.exit_code == 1
    assert "torchvision::nms" in json.loads(checked.stdout)["adapters"][0]["problem"]
