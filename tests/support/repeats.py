"""Tests that repeat what others show, of another family, attention or strategy: slow, as a suite has to stay quick."""

import pytest


def slow(*values, **named):
    """Values of a parameter with which a test is slow.

    Args:
        values: each a value, or a tuple of several parameters' values.
        named: the same, by the ids of the cases.
    """
    both = [*((None, value) for value in values), *named.items()]
    return [
        pytest.param(*(value if isinstance(value, tuple) else (value,)), id=name, marks=pytest.mark.slow)
        for name, value in both
    ]
