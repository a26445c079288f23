"""Tests that repeat of another family, attention or strategy what others show; `make test-repeats` and CI run them."""

import pytest


def repeats(*values):
    """Values of a parameter, each a value or a tuple of several parameters' values, with which a test is a repeat."""
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.repeat) for value in values
    ]
