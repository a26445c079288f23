"""The helpers on which all array code of the core rests, on both backends."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.backends import both_backends, host, to_backend
from vflowopt.arrays import asarray_like, descending_order, inverse_permutation, to_numpy

few_levels = st.lists(st.integers(-3, 3), min_size=1, max_size=60)


@both_backends
@given(values=few_levels)
def test_descending_order_puts_the_lower_index_first_among_equals(backend, values):
    order = host(descending_order(to_backend(np.array(values, dtype=np.float32), backend)))
    assert order.tolist() == sorted(range(len(values)), key=lambda i: (-values[i], i))


@both_backends
def test_descending_order_accepts_infinities_and_signed_zeros(backend):
    values = np.array([0.0, -np.inf, -0.0, np.inf, -np.inf, 1.0], dtype=np.float32)
    assert host(descending_order(to_backend(values, backend))).tolist() == [3, 5, 0, 2, 1, 4]


@both_backends
@given(seed=st.integers(0, 1000), size=st.integers(1, 50))
def test_inverse_permutation_inverts(backend, seed, size):
    order = np.random.default_rng(seed).permutation(size)
    rank = host(inverse_permutation(to_backend(order, backend)))
    assert rank[order].tolist() == list(range(size))


@both_backends
@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.bool_])
def test_asarray_like_keeps_the_dtype_and_to_numpy_undoes_it(backend, dtype):
    values = np.array([0, 1, 2], dtype=dtype)
    there = asarray_like(values, to_backend(np.zeros(1, dtype=np.float32), backend))
    assert type(there) is type(to_backend(values, backend))
    back = to_numpy(there)
    assert back.dtype == dtype
    assert back.tolist() == values.tolist()


def test_to_numpy_widens_what_numpy_does_not_have():
    torch = pytest.importorskip("torch")
    back = to_numpy(torch.tensor([1.5, 2.0], dtype=torch.bfloat16, requires_grad=True))
    assert back.dtype == np.float32
    assert back.tolist() == [1.5, 2.0]
