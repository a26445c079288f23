"""The few array helpers that are not in the Python array API standard.

Core code works on NumPy arrays (tests, search) and on torch tensors of any device (inference) alike, through
``array_api_compat``. Nothing here, and nothing that calls it, moves data between host and device, except
:func:`to_numpy`.
"""

from collections.abc import Hashable
from typing import Any, TypeAlias

import array_api_compat
import numpy as np
import numpy.typing as npt

Array: TypeAlias = Any
"""An array of any library that follows the array API standard; shapes are given in docstrings."""

HostInts: TypeAlias = npt.NDArray[np.int64]
HostBools: TypeAlias = npt.NDArray[np.bool_]


def namespace(*arrays: Array) -> Any:
    """The array API namespace shared by ``arrays``."""
    return array_api_compat.array_namespace(*arrays)


def device_of(array: Array) -> Any:
    """The device ``array`` lives on."""
    return array_api_compat.device(array)


def home_of(array: Array) -> Hashable:
    """Where an array lives: equal for arrays of one library on one device."""
    return namespace(array), device_of(array)


def asarray_like(host: npt.NDArray[Any], like: Array) -> Array:
    """Copy a host array to the library and device of ``like``, its dtype unchanged; the copy is not waited for."""
    xp, device = namespace(like), device_of(like)
    if array_api_compat.is_torch_array(like):
        there = xp.asarray(host)
        # From pageable memory, CUDA would copy to a buffer of its own first.
        return (there.pin_memory() if device.type == "cuda" else there).to(device, non_blocking=True)
    return xp.asarray(host, device=device)


def to_numpy(array: Array) -> npt.NDArray[Any]:
    """A NumPy copy of ``array`` (the one place where data leaves its device)."""
    if array_api_compat.is_torch_array(array):
        array = array.detach().cpu()
        if array.is_floating_point():
            array = array.float() if array.element_size() < 4 else array
        return np.asarray(array.numpy())
    return np.asarray(array)


def finite_or_lowest(values: Array) -> Array:
    """The same values, those that are not finite replaced by the lowest number of their dtype."""
    xp = namespace(values)
    lowest = float(xp.finfo(values.dtype).min)
    return xp.nan_to_num(values, nan=lowest, posinf=lowest, neginf=lowest)


def flaw(values: Array) -> Array:
    """0, or NaN if a value is not finite: added to what would be finite all the same, it shows there."""
    return 0 * namespace(values).sum(values)


def pick(values: Array, indices: Array, axis: int = 0) -> Array:
    """Values at non-negative indices [n] along an axis.

    ``take`` of the standard takes negative ones, too, for which it needs four operators of torch in the place of one.
    """
    if array_api_compat.is_torch_array(values):
        return values.index_select(axis, indices)
    return namespace(values).take(values, indices, axis=axis)


def inverse_permutation(order: Array) -> Array:
    """``rank`` with ``rank[order[i]] = i``; ``order`` is a permutation of shape [n]."""
    return namespace(order).argsort(order, stable=True)


def descending_order(values: Array) -> Array:
    """Indices [n] that sort ``values`` [n] from high to low; of equal values the lower index comes first."""
    return namespace(values).argsort(-values, stable=True)


def places_among(ascending: Array, values: Array) -> Array:
    """Where values [n] are, or would be, among ascending ones [m]: int64 [n]."""
    if array_api_compat.is_torch_array(ascending):
        # One after the other in memory, where several units' need not be so even if each is: torch warns of them.
        ascending = namespace(ascending).concat([ascending[:0], ascending])
    return namespace(ascending).searchsorted(ascending, values)


def normalised(vectors: Array) -> Array:
    """Vectors [tokens, D] of length 1, whose products are cosine similarities; those that are 0 stay so."""
    xp = namespace(vectors)
    length = xp.sqrt(xp.sum(vectors * vectors, axis=-1, keepdims=True))
    return vectors / xp.where(length > 0, length, 1.0)
