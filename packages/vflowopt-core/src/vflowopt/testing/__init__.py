"""Test kit for adapters and components: Hypothesis strategies, and checks that become parametrised pytest tests."""

try:
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
except ImportError as error:
    raise ImportError(
        "vflowopt.testing needs hypothesis and pytest: pip install 'vflowopt-core[testing]'", name=error.name
    ) from error

from vflowopt.testing.checks import BoundCheck, Check, ConformanceError, as_tests, checks_of, fail, require
from vflowopt.testing.properties import require_valid_plan
from vflowopt.testing.strategies import (
    PruningCase,
    attention_matrices,
    exact_attention,
    importances,
    layouts,
    positions,
    pruning_cases,
    seeds,
    separators,
    sides,
)
from vflowopt.testing.units import HostUnit, host_units, plans, pruning_strategies, schedules, scorers

__all__ = [
    "BoundCheck",
    "Check",
    "ConformanceError",
    "HostUnit",
    "PruningCase",
    "as_tests",
    "attention_matrices",
    "checks_of",
    "exact_attention",
    "fail",
    "host_units",
    "importances",
    "layouts",
    "plans",
    "positions",
    "pruning_cases",
    "pruning_strategies",
    "require",
    "require_valid_plan",
    "schedules",
    "scorers",
    "seeds",
    "separators",
    "sides",
]
