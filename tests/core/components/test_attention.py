"""MatrixAttention: the attention source that tests and analyses use."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles import importance as oracle
from vflowopt.components.attention import MatrixAttention
from vflowopt.errors import InputError
from vflowopt.testing import attention_matrices, seeds


@given(matrix=attention_matrices(), seed=seeds)
def test_received_sums_the_selected_query_rows(matrix, seed):
    queries = np.random.default_rng(seed).random(matrix.shape[:2]) < 0.5
    source = MatrixAttention(matrix)
    expected = [
        oracle.received(view, set(np.flatnonzero(chosen))) for view, chosen in zip(matrix, queries, strict=True)
    ]
    np.testing.assert_allclose(source.received(queries), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(source.received(), [oracle.received(view) for view in matrix], rtol=1e-6)
    assert source.received().dtype == source.received(queries).dtype == np.float32


@given(matrix=attention_matrices(), seed=seeds, parts=st.integers(1, 4))
def test_received_from_all_is_the_sum_over_a_partition_of_the_queries(matrix, seed, parts):
    owner = np.random.default_rng(seed).integers(0, parts, matrix.shape[:2])
    source = MatrixAttention(matrix)
    total = sum(source.received(owner == part) for part in range(parts))
    np.testing.assert_allclose(total, source.received(), rtol=1e-5)


@given(matrix=attention_matrices())
def test_received_totals_the_number_of_queries(matrix):
    patches = matrix.shape[-1]
    np.testing.assert_allclose(MatrixAttention(matrix).received().sum(axis=-1), patches, rtol=1e-5)


def test_heads_are_averaged():
    heads = np.random.default_rng(0).random((2, 4, 5, 5)).astype(np.float32)
    expected = heads.astype(np.float64).sum(axis=1).sum(axis=1) / 4
    np.testing.assert_allclose(MatrixAttention(heads).received(), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 4), (1, 4, 5), (1, 2, 3, 4, 4)])
def test_another_shape_is_refused_by_name(shape):
    with pytest.raises(InputError, match=r"\[views, heads, patches, patches\].*" + str(shape).replace("(", r"\(")[:-1]):
        MatrixAttention(np.zeros(shape))
