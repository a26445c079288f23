"""Modules and objects that the pages name exist where they say."""

import importlib
import pkgutil
import re

import pytest

from docs.pages import PAGES, prose

DOTTED = re.compile(r"`(vflowopt(?:_\w+)?(?:\.\w+)+)`")
LOCATED = re.compile(r"((?:`[\w.]+`(?:, | and )?)+) \(`(vflowopt(?:_\w+)?(?:\.\w+)*)`\)")
"""Objects, and in brackets the module that has them: ``Name`, `other` (`package.module`)``."""

pytest.importorskip("vflowopt_qwen")


def dotted():
    names = [(page, name) for page in PAGES for name in sorted(set(DOTTED.findall(prose(page))))]
    return [pytest.param(name, id=f"{page}: {name}") for page, name in names]


def located():
    for page in PAGES:
        for names, module in LOCATED.findall(prose(page)):
            for name in re.findall(r"`([\w.]+)`", names):
                if not name.startswith("vflowopt"):
                    yield pytest.param(module, name, id=f"{page}: {module}.{name}")


@pytest.mark.parametrize("name", dotted())
def test_dotted_names_exist(name):
    pkgutil.resolve_name(name)


@pytest.mark.parametrize(("module", "name"), list(located()))
def test_objects_lie_in_the_modules_named_beside_them(module, name):
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
