"""What importing the core costs, and what it must not pull in."""

import inspect
import subprocess
import sys
from typing import Any, get_args, get_type_hints

import pytest

import vflowopt
from vflowopt import errors

HEAVY = ("torch", "transformers", "emukit", "scipy", "GPy", "matplotlib")


def test_pruning_strategies_load_without_any_framework():
    """Plugins that are installed are discovered on the way, so theirs must be light, too."""
    program = (
        "import sys, vflowopt\n"
        "strategy = vflowopt.Strategy.preset('llava-onevision-7b/25')\n"
        "strategy.average_retention(28)\n"
        "from vflowopt.plugins import installed\n"
        "assert not installed().failures, installed().failures\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


def test_public_names_exist():
    assert [name for name in vflowopt.__all__ if not hasattr(vflowopt, name)] == []
    assert set(vflowopt.__all__) <= set(dir(vflowopt))


def inside(annotation):
    """A type and all that it consists of."""
    yield annotation
    for part in get_args(annotation):
        yield from inside(part)


@pytest.mark.parametrize("call", [vflowopt.prune, vflowopt.optimize])
def test_what_users_call_is_typed(call):
    hints = get_type_hints(call)
    assert set(hints) == {*inspect.signature(call).parameters, "return"}
    assert Any not in [part for hint in hints.values() for part in inside(hint)]


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(vflowopt, "optimise")


def test_every_error_is_caught_by_the_base_class_and_explained():
    kinds = [value for value in vars(errors).values() if isinstance(value, type)]
    assert all(issubclass(kind, errors.VFlowOptError) and kind.__doc__ for kind in kinds)
    for name in ("StrategyError", "BudgetError", "ImportanceError", "InputError"):
        assert issubclass(getattr(errors, name), ValueError)
