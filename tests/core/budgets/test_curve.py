"""Curves: synthetic times are recovered, coefficients are never negative, and the misfit is told."""

import numpy as np
import pytest

from vflowopt.budgets.curve import Curve
from vflowopt.budgets.curve_fitting import fit_curve
from vflowopt.errors import InputError

LENGTHS = (64, 128, 256, 512, 1024, 2048)


def at(lengths, function):
    return [((n,), function(n)) for n in lengths]


@pytest.mark.parametrize("terms", [(2e-3, 3e-5, 4e-9), (0.0, 3e-5, 0.0), (5e-3, 0.0, 1e-8)])
def test_a_polynomial_is_recovered(terms):
    constant, linear, quadratic = terms
    curve = fit_curve(at(LENGTHS, lambda n: constant + linear * n + quadratic * n * n))
    assert (curve.constant, curve.linear, curve.quadratic) == pytest.approx(terms, rel=1e-6, abs=1e-12)
    assert curve.residual < 1e-9
    assert curve.at(777) == pytest.approx(constant + linear * 777 + quadratic * 777**2)


def test_every_measurement_counts_alike_whatever_its_size():
    """Five per cent of noise leaves each fitted time within some per cent, the shortest as well."""
    rng = np.random.default_rng(0)
    true = Curve(constant=1e-3, linear=2e-5, quadratic=3e-9)
    curve = fit_curve([((n,), true.at(n) * (1 + 0.05 * rng.uniform(-1, 1))) for n in LENGTHS for _ in range(3)])
    for n in LENGTHS:
        assert curve.at(n) == pytest.approx(true.at(n), rel=0.05)
    assert 0 < curve.residual <= 0.1


def test_falling_times_are_fitted_without_a_negative_coefficient():
    curve = fit_curve(at((100, 200, 300), lambda n: 0.03 - 5e-5 * n))
    assert min(curve.constant, curve.linear, curve.quadratic) >= 0
    assert curve.residual == pytest.approx(max(map(abs, curve.errors())))
    assert curve.residual > 0.1


def test_differences_that_came_out_negative_are_no_less_than_nothing():
    curve = fit_curve([((100,), -1e-5), ((200,), -2e-5), ((400,), 1e-6)])
    assert curve.at(400) >= 0
    assert fit_curve([((100,), 0.0)]) == Curve(measured=(((100.0,), 0.0),))


def test_a_floor_is_found_where_short_inputs_all_take_the_same():
    def launched(n):
        return max(0.02, 1e-3 + 4e-5 * n + 1e-9 * n * n)

    curve = fit_curve(at((32, 64, 128, 256, 1024, 2048, 3072, 4096), launched), floor=True)
    assert curve.floor == pytest.approx(0.02)
    assert curve.residual < 1e-6
    assert fit_curve(at((32, 64, 128, 256, 1024, 2048, 3072, 4096), launched)).residual > 0.1


def test_no_floor_is_made_up():
    assert fit_curve(at(LENGTHS, lambda n: 1e-3 + 2e-5 * n), floor=True).floor == 0


def test_few_measurements_get_few_terms():
    alone = fit_curve([((100,), 0.2)])
    assert (alone.constant, alone.linear, alone.quadratic) == pytest.approx((0, 0.002, 0))
    two = fit_curve([((100,), 0.2), ((200,), 0.3)])
    assert (two.constant, two.linear, two.quadratic) == pytest.approx((0.1, 0.001, 0))
    three = fit_curve([((100,), 0.2), ((200,), 0.3), ((300,), 0.5)])
    assert three.quadratic == 0
    assert 0 < three.residual < 0.1


def test_several_parts_share_a_measurement():
    true = Curve(constant=1e-3, linear=2e-5, quadratic=3e-8)
    parts = [(100,), (100, 300), (50, 60, 70), (400,)]
    curve = fit_curve([(own, sum(true.at(n) for n in own)) for own in parts])
    assert curve.total((80, 90)) == pytest.approx(true.at(80) + true.at(90), rel=1e-6)


def test_layers_of_different_lengths_share_the_time_in_equal_parts():
    curve = Curve(constant=6.0, linear=0.6, quadratic=0.06)
    lengths = (10, 10, 4)
    by_layer = sum((6 + 0.6 * n + 0.06 * n * n) / 3 for n in lengths)
    assert curve.over(lengths) == pytest.approx(by_layer)
    assert curve.over(lengths, batch=3) == pytest.approx(6 + 3 * (by_layer - 6))
    assert curve.model_copy(update={"floor": 1e6}).over(lengths, batch=3) == 1e6


@pytest.mark.parametrize("measured", [[], [((), 1.0)], [((0,), 1.0)], [((5, -1), 1.0)]])
def test_nothing_to_fit_is_an_error(measured):
    with pytest.raises(InputError, match="tokens above 0"):
        fit_curve(measured)
