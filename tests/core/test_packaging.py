"""Each distribution declares what it imports, and nothing that it does not."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in (REPOSITORY / "packages").glob("*/pyproject.toml"))
BY_NAME = {package.name: package for package in PACKAGES}
MODULES = {"pillow": "PIL", "vflowopt-core": "vflowopt"}
"""Import names that do not follow from the distribution's name."""
GUARDED = {"huggingface_hub", "triton"}
"""Imported where they are installed: the core says what to install, and CUDA builds of torch bring Triton along."""
AT_HAND = {"vflowopt-vllm": {"vllm", "openai"}}
"""What a package finds where it is of use: vLLM comes as several distributions, all of which bring OpenAI's client."""


def project(package):
    return tomllib.loads((package / "pyproject.toml").read_text())["project"]


def module(requirement):
    name = re.match(r"[\w.-]+", requirement)[0].lower()
    return MODULES.get(name, name.replace("-", "_"))


def imported(package):
    """Top-level names of everything that the package's sources import, at any depth of nesting."""
    (own,) = (package / "src").glob("vflowopt*")
    found = set()
    for file in own.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {own.name}


def declared(package, extras):
    """What a package requires with the given extras, by itself or through packages of this project."""
    own = project(package)
    requirements = own["dependencies"] + [one for extra in extras for one in own["optional-dependencies"][extra]]
    found = {module(requirement) for requirement in requirements}
    for requirement in requirements:
        name, _, wanted = requirement.partition("==")[0].rstrip("]").partition("[")
        if name in BY_NAME:
            found |= declared(BY_NAME[name], wanted.split(",") if wanted else [])
    return found


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_every_import_is_declared(package):
    extras = list(project(package).get("optional-dependencies", {}))
    at_hand = GUARDED | AT_HAND.get(package.name, set())
    assert imported(package) - at_hand - declared(package, extras) == set()


def test_qwen_alone_brings_what_it_needs_and_nothing_more():
    package = REPOSITORY / "packages" / "vflowopt-qwen"
    requirements = project(package)["dependencies"]
    names = {re.match(r"[\w.-]+", requirement)[0] for requirement in requirements}
    assert names == {"torch", "transformers", "vflowopt-core", "vflowopt-hf"}
    assert imported(package) == set(map(module, requirements))
    assert not project(package).get("optional-dependencies")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_torchvision_is_required_by_none(package):
    assert "torchvision" not in (package / "pyproject.toml").read_text()
    assert "torchvision" not in imported(package)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_distributions_of_this_project_go_together(package):
    """All have one version, and require exactly it of each other."""
    (version,) = {project(other)["version"] for other in PACKAGES}
    for requirement in project(package)["dependencies"]:
        assert not requirement.startswith("vflowopt") or requirement.endswith(f"=={version}"), requirement
