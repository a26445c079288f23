"""A family in a package of its own, installed as a wheel: found by its entry point, proved by its own tests."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.command_line import invoke
from support.lines import code_lines, plain_lines
from vflowopt import plugins
from vflowopt_hf.testing import __main__ as testing

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "vflowopt-deepseek-vl"
TESTS = EXAMPLE / "tests" / "test_conformance.py"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A directory of installed packages that holds the example alone."""
    target = tmp_path_factory.mktemp("site")
    offline = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--no-compile")
    command = [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(EXAMPLE)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def site(wheel, monkeypatch):
    """The directory, where Python finds it."""
    monkeypatch.syspath_prepend(str(wheel))
    plugins.installed.cache_clear()
    yield wheel
    plugins.installed.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("vflowopt_deepseek_vl", TESTS.stem)]:
        del sys.modules[name]


def test_it_is_found_by_its_entry_point(site):
    told = json.loads(invoke("adapters", "--json", "--check").stdout)
    (found,) = [adapter for adapter in told["adapters"] if adapter["distribution"] == "vflowopt-deepseek-vl"]
    assert (found["name"], found["model_types"], found["version"]) == ("deepseek-vl", ["deepseek_vl"], "0.1.0")
    assert found["usable"]
    assert Path(found["place"]) == site.resolve()
    assert told["failures"] == told["conflicts"] == []


def test_it_passes_its_own_conformance_tests(site, capsys):
    assert testing.main([str(TESTS)]) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert Path(sys.modules["vflowopt_deepseek_vl.family"].__file__).is_relative_to(site)
    name, _, checks, passed, *_ = told.out.splitlines()[-1].strip("| ").split(" | ")
    assert (name, checks) == ("`deepseek-vl`", passed)
    assert int(passed) >= 25


def test_the_adapter_has_less_than_100_lines():
    adapter = EXAMPLE / "src" / "vflowopt_deepseek_vl" / "family.py"
    assert code_lines(adapter) < plain_lines(adapter) < 100


def test_it_needs_nothing_of_vflowopt_but_the_runtime():
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}
    assert {name for name in needed if name.startswith("vflowopt")} == {"vflowopt-hf"}
