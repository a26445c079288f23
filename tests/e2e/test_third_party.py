"""A family in a package of its own, installed as a wheel: found by its entry point, proved by its own tests."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.lines import code_lines, plain_lines

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "vflowopt-deepseek-vl"


def python(*arguments, site=None):
    environment = os.environ | ({} if site is None else {"PYTHONPATH": str(site)})
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A directory of installed packages that holds the example alone."""
    target = tmp_path_factory.mktemp("site")
    offline = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--no-compile")
    done = python("-m", "pip", "install", *offline, "--target", target, EXAMPLE)
    assert done.returncode == 0, done.stderr
    return target


def test_it_is_found_by_its_entry_point(site):
    done = python("-c", "from vflowopt.cli import app; app()", "adapters", "--json", "--check", site=site)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (found,) = [adapter for adapter in told["adapters"] if adapter["distribution"] == "vflowopt-deepseek-vl"]
    assert (found["name"], found["model_types"], found["version"]) == ("deepseek-vl", ["deepseek_vl"], "0.1.0")
    assert found["usable"]
    assert Path(found["place"]) == site.resolve()
    assert told["failures"] == told["conflicts"] == []


def test_it_passes_its_own_conformance_tests(site):
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLE / "tests", site=site)
    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= 25, done.stdout


def test_the_adapter_has_less_than_100_lines():
    adapter = EXAMPLE / "src" / "vflowopt_deepseek_vl" / "family.py"
    assert code_lines(adapter) < plain_lines(adapter) < 100


def test_it_needs_nothing_of_vflowopt_but_the_runtime():
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}
    assert {name for name in needed if name.startswith("vflowopt")} == {"vflowopt-hf"}
