"""Diverse importance against loops in float64, and its invariants."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.backends import both_backends, host, to_backend
from vflowopt import CalibratedAttention
from vflowopt.components import diversity
from vflowopt.components.diversity import RESOLUTION, distance_above, diverse_importance
from vflowopt.testing import host_units, importances, seeds

shares = st.floats(0, 1)


def loops(importance, features, structural, delta):
    """I' by its definition, token by token, in float64."""
    importance, features = importance.astype(np.float64), features.astype(np.float64)
    values = np.zeros(len(importance))
    for i in np.flatnonzero(~structural):
        above = [
            j
            for j in np.flatnonzero(~structural)
            if importance[j] > importance[i] or (importance[j] == importance[i] and j < i)
        ]
        lengths = [np.linalg.norm(features[i]) * np.linalg.norm(features[j]) for j in above]
        cosines = [features[i] @ features[j] / max(length, 1e-300) for j, length in zip(above, lengths, strict=True)]
        distance = min((1 - cosine for cosine in cosines), default=2.0)
        values[i] = importance[i] ** (1 - delta) * max(distance, RESOLUTION) ** delta
    return values


@st.composite
def cases(draw):
    """Importance with ties, embeddings with copies, structural tokens, and a delta."""
    tokens = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(seeds))
    features = rng.integers(-3, 4, (tokens, draw(st.integers(1, 6)))).astype(np.float32)
    structural = rng.random(tokens) < draw(st.sampled_from([0.0, 0.2]))
    importance = np.where(structural, 0, draw(importances(tokens))).astype(np.float32)
    return importance, features, structural, draw(shares)


@both_backends
@given(cases())
def test_it_is_its_definition(backend, case):
    importance, features, structural, delta = case
    found = host(
        diverse_importance(
            to_backend(importance, backend), to_backend(features, backend), to_backend(structural, backend), delta
        )
    )
    assert found.dtype == np.float32
    # A distance of a few roundings, raised to a small power, is large: compare what it was made of.
    expected = loops(importance, features, structural, delta)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=(2e-6**delta - 1e-6**delta) * importance.max() + 1e-7)


@given(cases())
def test_blocks_make_no_difference(case):
    importance, features, structural, delta = case
    whole = diverse_importance(importance, features, structural, delta)
    rows, diversity.ROWS = diversity.ROWS, 3
    try:
        blocks = diverse_importance(importance, features, structural, delta)
    finally:
        diversity.ROWS = rows
    np.testing.assert_allclose(blocks, whole, rtol=1e-3, atol=2e-3 * importance.max())


@given(cases())
def test_without_diversity_it_is_importance_and_with_nothing_else_distance(case):
    importance, features, structural, _ = case
    np.testing.assert_array_equal(diverse_importance(importance, features, structural, 0.0), importance)
    alone = diverse_importance(importance, features, structural, 1.0)
    assert (alone[~structural] >= RESOLUTION).all()
    assert (alone <= 2).all()


@given(cases(), st.sampled_from([0.25, 0.5, 2.0, 8.0]), st.data())
def test_scaling_importance_scales_all_alike_and_raising_one_token_never_lowers_it(case, factor, data):
    importance, features, structural, delta = case
    found = diverse_importance(importance, features, structural, delta)
    scaled = diverse_importance(importance * np.float32(factor), features, structural, delta)
    np.testing.assert_allclose(scaled, found * factor ** (1 - delta), rtol=1e-5)
    token = data.draw(st.integers(0, len(importance) - 1))
    if structural[token]:
        return
    raised = importance.copy()
    raised[token] += np.float32(data.draw(st.floats(0.01, 100)))
    after = diverse_importance(raised, features, structural, delta)
    assert after[token] >= found[token] * (1 - 1e-5)
    others = np.delete(np.arange(len(importance)), token)
    assert (after[others] <= found[others] * (1 + 1e-5) + 1e-12).all()


@both_backends
def test_of_copies_the_most_important_stays_and_a_lone_token_outranks_its_better(backend):
    """Two copies of one token and a weaker one that is orthogonal: the second copy falls behind."""
    features = np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32)
    importance = np.array([0.9, 1.0, 0.5], dtype=np.float32)
    values = diverse_importance(
        to_backend(importance, backend),
        to_backend(features, backend),
        to_backend(np.zeros(3, dtype=bool), backend),
        0.5,
    )
    assert np.argsort(-host(values)).tolist() == [1, 2, 0]


def test_memory_is_linear_in_the_number_of_tokens():
    """On tensors without data: what holds there needs no value that only the device knows."""
    torch = pytest.importorskip("torch")
    from support.memory import peak_memory

    held = []
    for tokens in (1024, 2048, 4096):
        importance, features = torch.empty(tokens, device="meta"), torch.empty(tokens, 16, device="meta")
        structural = torch.empty(tokens, dtype=torch.bool, device="meta")
        held.append(peak_memory(partial(diverse_importance, importance, features, structural, 0.5)))
    small, middle, large = held
    assert large - middle == pytest.approx(2 * (middle - small), rel=0.05)
    assert large < 4 * tokens**2 / 4


def test_no_tokens_have_no_distances():
    assert distance_above(np.zeros((0, 4), dtype=np.float32)).shape == (0,)


@given(host_units(), shares)
def test_the_scorer_gives_diverse_importance_of_its_own(unit, delta):
    plain = CalibratedAttention(threshold=1.5).score(unit).importance
    found = CalibratedAttention(threshold=1.5, diversity=delta).score(unit).importance
    expected = plain if delta == 0 else diverse_importance(plain, unit.features, unit.layout.structural, delta)
    np.testing.assert_array_equal(found, expected)
