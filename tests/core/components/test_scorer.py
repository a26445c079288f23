"""Calibrated attention with entropy (Eq. 1, 2, 4) against loops in float64."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oracles import importance as oracle
from support.backends import Attention, both_backends, host, to_backend
from vflowopt import CalibratedAttention
from vflowopt.arrays import namespace
from vflowopt.components.scorer import calibrated_attention, calibration_patches, entropy_term
from vflowopt.errors import StrategyError
from vflowopt.testing import attention_matrices, exact_attention, seeds

thresholds = st.one_of(st.just(0.0), st.floats(0.1, 3.0), st.floats(3.0, 50.0))


@dataclass
class Context:
    """What a scorer sees of one unit; every patch is a token unless ``to_tokens`` says otherwise."""

    attention: Attention
    maps: object = None

    @property
    def entropy(self):
        assert self.maps is not None, "the scorer asked for an entropy that it did not declare"
        return self.maps

    def to_tokens(self, patch_map):
        return patch_map.reshape(-1)


@both_backends
@given(matrix=attention_matrices(), threshold=thresholds)
def test_calibrated_attention_agrees_with_the_equations(backend, matrix, threshold):
    assume(all(oracle.calibration_margin(view, threshold) > 1e-4 for view in matrix))
    values, selected = calibrated_attention(Attention(matrix, backend), threshold)
    expected = [oracle.importance(view, None, threshold, 0.0) for view in matrix]
    assert str(values.dtype).endswith("float32")
    np.testing.assert_allclose(host(values), expected, rtol=1e-6, atol=1e-12)
    chosen = [oracle.calibration_set(view, threshold) for view in matrix]
    assert [set(np.flatnonzero(row)) for row in host(selected)] == chosen


@both_backends
@given(matrix=exact_attention(), threshold=st.sampled_from([0.0, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0]))
def test_a_patch_that_receives_exactly_the_threshold_is_not_selected(backend, matrix, threshold):
    values, selected = calibrated_attention(Attention(matrix, backend), threshold)
    chosen = [oracle.calibration_set(view, threshold) for view in matrix]
    assert [set(np.flatnonzero(row)) for row in host(selected)] == chosen
    assert host(values).tolist() == [oracle.received(view, k) for view, k in zip(matrix, chosen, strict=True)]


@given(matrix=attention_matrices())
def test_threshold_zero_is_plain_mean_attention(matrix):
    source = Attention(matrix)
    values, selected = calibrated_attention(source, 0.0)
    np.testing.assert_array_equal(values, source.received())
    assert selected.all()


@both_backends
def test_a_view_in_which_no_patch_passes_keeps_all_of_its_own(backend):
    uniform = np.full((4, 4), 0.25)
    sink = np.tile([0.7, 0.1, 0.1, 0.1], (4, 1))
    values, selected = calibrated_attention(Attention([uniform, sink], backend), 2.0)
    assert host(selected).sum(axis=-1).tolist() == [4, 1]
    np.testing.assert_allclose(host(values), [[1.0] * 4, [0.7, 0.1, 0.1, 0.1]], rtol=1e-6)


@pytest.mark.parametrize("threshold", [1e-320, 1e-30, 1e30, 1e300])
def test_extreme_thresholds_are_harmless(threshold):
    matrix = np.full((1, 3, 3), 1 / 3)
    with np.errstate(over="ignore", invalid="ignore"):
        values, selected = calibrated_attention(Attention(matrix), threshold)
    assert selected.all()
    np.testing.assert_allclose(values, 1.0, rtol=1e-6)


@both_backends
def test_views_are_calibrated_apart(backend):
    """A view whose patches receive little is not measured against another view's mean."""
    received = np.array([[1, 1, 2], [10, 10, 20]], dtype=np.float32)
    selected = calibration_patches(to_backend(received, backend), 1.2)
    assert host(selected).tolist() == [[False, False, True]] * 2


@both_backends
@given(seed=seeds, views=st.integers(1, 3), patches=st.integers(1, 50))
def test_entropy_term_is_a_softmax_per_view(backend, seed, views, patches):
    entropy = (np.random.default_rng(seed).random((views, patches)) * 5.5).astype(np.float32)
    term = host(entropy_term(to_backend(entropy, backend)))
    np.testing.assert_allclose(term, [oracle.softmax(view) for view in entropy], rtol=2e-6)
    np.testing.assert_allclose(term.sum(axis=-1), 1, rtol=1e-5)


def test_entropy_term_does_not_overflow():
    np.testing.assert_allclose(entropy_term(np.array([[1000.0, 1000.0]], dtype=np.float32)), 0.5)


@both_backends
@given(matrix=attention_matrices(), threshold=thresholds, weight=st.floats(0, 100), seed=seeds)
def test_importance_agrees_with_equation_4(backend, matrix, threshold, weight, seed):
    assume(all(oracle.calibration_margin(view, threshold) > 1e-4 for view in matrix))
    entropy = (np.random.default_rng(seed).random(matrix.shape[:2]) * 5.5).astype(np.float32)
    context = Context(Attention(matrix, backend), to_backend(entropy, backend) if weight else None)
    scorer = CalibratedAttention(threshold=threshold, entropy_weight=weight)
    score = scorer.score(context)
    expected = [oracle.importance(view, h, threshold, weight) for view, h in zip(matrix, entropy, strict=True)]
    np.testing.assert_allclose(host(score.importance), np.concatenate(expected), rtol=2e-6, atol=1e-12)
    sizes = [len(oracle.calibration_set(view, threshold)) for view in matrix]
    assert host(score.details["calibration_patches"]).tolist() == sizes


@both_backends
def test_the_map_goes_through_the_geometry_of_the_features(backend):
    """Four patches make a token, and a newline follows: the scorer hands its patch map to the context and no more."""

    class Pooled(Context):
        def to_tokens(self, patch_map):
            xp = namespace(patch_map)
            assert tuple(patch_map.shape) == (1, 4)
            return xp.concat([xp.mean(patch_map, axis=-1), xp.zeros(1, dtype=patch_map.dtype)])

    matrix = np.tile([0.1, 0.2, 0.3, 0.4], (1, 4, 1))
    score = CalibratedAttention().score(Pooled(Attention(matrix, backend)))
    np.testing.assert_allclose(host(score.importance), [1.0, 0.0], rtol=1e-6)


def test_a_scorer_declares_what_it_reads():
    assert CalibratedAttention().needs == {"attention"}
    assert CalibratedAttention(entropy_weight=0.1).needs == {"attention", "entropy"}
    assert CalibratedAttention(diversity=0.1).needs == {"attention", "features"}


@pytest.mark.parametrize(
    "options", [{"threshold": -1}, {"entropy_weight": -0.1}, {"diversity": 1.1}, {"threshold": float("nan")}, {"t": 1}]
)
def test_options_out_of_range_are_refused_by_name(options):
    with pytest.raises(StrategyError, match=next(iter(options))):
        CalibratedAttention(**options)
