"""Every built-in family passes the conformance kit."""

import importlib
import pkgutil
from dataclasses import replace

import support.cases
from vflowopt_hf.testing import conformance


def cases():
    """The case of every module in tests/support/cases."""
    for module in pkgutil.iter_modules(support.cases.__path__):
        yield replace(importlib.import_module(f"support.cases.{module.name}").CASE, name=module.name)


@conformance(*cases())
def test_family(check):
    check()
