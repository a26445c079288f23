"""The array libraries that the core must treat alike."""

import numpy as np
import pytest

BACKENDS = ("numpy", "torch")

both_backends = pytest.mark.parametrize("backend", BACKENDS)
"""Run a test once with NumPy arrays and once with torch tensors; torch is skipped where it is not installed."""


def to_backend(array, backend):
    """A host array as an array of the backend, its dtype unchanged."""
    array = np.asarray(array)
    if backend == "numpy":
        return array
    return pytest.importorskip("torch").from_numpy(array.copy())


def host(array):
    """A NumPy array of whatever the core returned."""
    return array if isinstance(array, np.ndarray) else array.detach().cpu().numpy()


class Attention:
    """A source of attention on either backend: the head-averaged matrix [views, patches, patches], on its device."""

    def __init__(self, matrix, backend="numpy"):
        self.matrix = to_backend(np.asarray(matrix, dtype=np.float32), backend)

    def received(self, queries=None, at_most=None):
        if queries is None:
            return self.matrix.sum(1)
        assert (
            at_most is None
            or int(queries.sum(-1)[~queries.all(-1)].max() if (~queries.all(-1)).any() else 0) <= at_most
        )
        return (self.matrix * queries[:, :, None]).sum(1)
