"""How figures read: one style, with a space before the unit, and never an exponent."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vflowopt import figures


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [
        (figures.percent(0.25), "25.0 %"),
        (figures.percent(1), "100.0 %"),
        (figures.percent(-0.0123, 2), "-1.23 %"),
        (figures.score(0.99342), "0.9934"),
        (figures.ratio(2.319), "2.32x"),
        (figures.ratio(12.94), "12.9x"),
        (figures.ratio(508.3), "508x"),
        (figures.seconds(1.345), "1.34 s"),
        (figures.seconds(0.054), "54.0 ms"),
        (figures.seconds(0.9996), "1.00 s"),
        (figures.seconds(0.000022), "22.0 us"),
        (figures.seconds(0.00099996), "1.00 ms"),
        (figures.seconds(-0.0125), "-12.5 ms"),
        (figures.seconds(0), "0.00 us"),
        (figures.size(512), "512 B"),
        (figures.size(662426), "646.9 KiB"),
        (figures.size(3 * 2**30), "3.00 GiB"),
        (figures.flops(7.896e9), "7.90 G"),
        (figures.flops(0), "0"),
        (figures.tokens((406, 101.6, 80)), "406 > 102 > 80"),
    ],
)
def test_figures(shown, wanted):
    assert shown == wanted


@given(st.floats(-1e5, 1e5))
def test_durations_are_read_back_to_three_digits(value):
    shown = figures.seconds(value)
    number, unit = re.fullmatch(r"(-?[\d.]+) (s|ms|us)", shown).groups()
    back = float(number) * {"s": 1, "ms": 1e-3, "us": 1e-6}[unit]
    assert abs(back - value) <= max(5.1e-3 * abs(value), 5.1e-9)
