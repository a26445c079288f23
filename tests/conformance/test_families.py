"""Every built-in family passes the conformance kit; its further model types pass what depends on the model."""

import importlib
import pkgutil
from dataclasses import replace

import support.cases
from vflowopt_hf.testing import conformance

NAMES = [found.name for found in pkgutil.iter_modules(support.cases.__path__)]
MODULES = {name: importlib.import_module(f"support.cases.{name}") for name in NAMES}


@conformance(
    *(replace(module.CASE, name=name) for name, module in MODULES.items()),
    expected_failures={
        f"{name}-{check}": reason
        for name, module in MODULES.items()
        for check, reason in getattr(module, "UPSTREAM_FAULTS", {}).items()
    },
)
def test_family(check):
    check()


@conformance(
    *(sibling for module in MODULES.values() for sibling in getattr(module, "SIBLINGS", ())),
    only=("counts", "map alignment", "observed layer", "video", "ragged batch", "identity"),
    attention=("sdpa",),
)
def test_sibling(check):
    check()
