"""Vision attention as a source of column sums, never as a matrix that must exist."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vflowopt.arrays import Array
from vflowopt.errors import InputError


class AttentionSource(Protocol):
    """Head-averaged softmax attention A of one ViT layer over the patches of each view of one unit.

    ``A[v, i, j]`` is the weight that query patch i gives to key patch j in view v, averaged over heads, class token
    excluded. Adapters implement this by streaming over queries, so that heads x N x N is never held.
    """

    def received(self, queries: Array | None = None, at_most: int | None = None) -> Array:
        """Attention received per patch, summed over query patches.

        Args:
            queries: boolean [views, patches], the query rows to sum over; ``None`` sums over all.
            at_most: a bound known in advance on the selected rows per view, so that a source can do only that much
                work without reading ``queries`` back; views that select more rows have an unspecified result.

        Returns:
            float32 [views, patches], ``sum over i in queries of A[v, i, j]``.
        """
        ...


class MatrixAttention:
    """An :class:`AttentionSource` over a matrix held in memory, for tests, analysis and small inputs.

    Args:
        matrix: float [views, heads, patches, patches] or, already averaged over heads, [views, patches, patches].

    Raises:
        InputError: the shape is neither of the two.
    """

    def __init__(self, matrix: npt.ArrayLike) -> None:
        weights: npt.NDArray[Any] = np.asarray(matrix)
        if weights.ndim not in (3, 4) or weights.shape[-1] != weights.shape[-2]:
            raise InputError(
                f"an attention matrix must have shape [views, patches, patches] or [views, heads, patches, patches], "
                f"not {weights.shape}"
            )
        self._matrix = weights.mean(axis=1) if weights.ndim == 4 else weights

    def received(self, queries: Array | None = None, at_most: int | None = None) -> Array:  # noqa: ARG002
        """See :meth:`AttentionSource.received`."""
        if queries is None:
            total = self._matrix.sum(axis=1)
        else:
            total = np.einsum("vij,vi->vj", self._matrix, np.asarray(queries, dtype=self._matrix.dtype))
        return total.astype(np.float32)
