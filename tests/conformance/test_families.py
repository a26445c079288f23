"""Every built-in family passes the conformance kit; its further model types pass what depends on the model."""

import importlib
from dataclasses import replace

import pytest
import transformers

from support.cases import NAMES, SINCE
from vflowopt_hf.testing import conformance
from vflowopt_hf.upstream import TESTED, installed

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


@pytest.mark.parametrize(("name", "since"), SINCE.items())
def test_a_case_is_left_out_only_on_releases_before_its_first(name, since):
    assert TESTED[0] < since <= TESTED[-1]
    assert (name in MODULES) == (installed() >= since)
    if name not in MODULES:
        first = ".".join(map(str, since))
        pytest.skip(f"{name} needs transformers {first} or newer, and {transformers.__version__} is installed")
