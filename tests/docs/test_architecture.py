"""The page of the architecture names every folder of both packages once, in the order that the import contracts say."""

import re
import tomllib

import pytest

from docs.pages import REPOSITORY, read

SOURCES = {"vflowopt": "packages/vflowopt-core/src", "vflowopt_hf": "packages/vflowopt-hf/src"}
NAMED = re.compile(r"`((?:vflowopt|vflowopt_hf)/[\w/]*)/`")


def folders(package):
    """Paths of the package's folders, as the page writes them."""
    source = REPOSITORY / SOURCES[package]
    return [found.parent.relative_to(source).as_posix() for found in (source / package).glob("*/**/__init__.py")]


def named(package):
    return [path for path in NAMED.findall(read("architecture.md")) if path.partition("/")[0] == package]


def ranks(package):
    """From each top folder of the package to its layer, 0 being the lowest; siblings share one."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == [package])
    return {name: rank for rank, layer in enumerate(reversed(layers)) for name in layer.split(" | ")}


@pytest.mark.parametrize("package", SOURCES)
def test_every_folder_is_named_once(package):
    assert sorted(named(package)) == sorted(folders(package))


@pytest.mark.parametrize("package", SOURCES)
def test_folders_stand_in_the_order_of_the_layers(package):
    rank = ranks(package)
    order = [rank[top] for path in named(package) if (top := path.split("/")[1]) in rank]
    assert order == sorted(order)
    assert len(order) > 5


def test_it_is_one_screen():
    assert len(read("architecture.md").splitlines()) <= 60
