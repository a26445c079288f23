"""Which fused kernels serve the importance pass, if any: where none does, stock operators do, in float32."""

import functools
import importlib
import importlib.util
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from vflowopt_hf.graphs.watch import Watch

_WIDEST = 248
"""Of a head: both have room for 256 numbers, three of which the second adds, in eights."""

_MODULES = {"Triton": "vflowopt_hf.vision.fused_sums", "torch's fused attention": "vflowopt_hf.vision.swapped_sums"}

_MATRIX_UNITS = {torch.bfloat16: "_is_amx_tile_supported", torch.float16: "_is_amx_fp16_supported"}
"""How torch tells whether a CPU multiplies matrices of a dtype by itself."""


def fused_kernels(states: Tensor) -> Any | None:
    """A module with ``row_normalisers`` and ``column_sums`` for query and key like ``states``, or ``None``.

    On CUDA :mod:`vflowopt_hf.vision.fused_sums`, and where Triton does not work
    :mod:`vflowopt_hf.vision.swapped_sums`, as on CPUs with matrix units. Both take 16 bits alone: of float32, such
    units would drop bits that the tower's own products keep. A mode that looks on at operators, to count FLOPs for
    example, would not see kernels; that of recordings need not.
    """
    mode = _get_current_dispatch_mode()
    if mode is not None and not isinstance(mode, Watch):
        return None
    if states.dtype not in _MATRIX_UNITS or states.shape[-1] > _WIDEST:
        return None
    if not states.is_cuda and not (states.device.type == "cpu" and has_matrix_units(states.dtype)):
        return None
    return _kernels(states.device, states.dtype, states.shape[-1])


def has_matrix_units(dtype: torch.dtype) -> bool:
    """Whether this CPU multiplies matrices of 16 bits in units of their own; without, it is as fast in float32."""
    supported = getattr(torch.cpu, _MATRIX_UNITS[dtype], None)
    return supported is not None and bool(supported())


@functools.cache
def _kernels(device: torch.device, dtype: torch.dtype, width: int) -> Any | None:
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        module = _running("Triton", device, dtype, width)
        if module is not None:
            return module
    return _running("torch's fused attention", device, dtype, width)


def _running(what: str, device: torch.device, dtype: torch.dtype, width: int) -> Any | None:
    """A module, once its kernels have run for these arguments, which compiles them where they need it."""
    module = importlib.import_module(_MODULES[what])
    states = torch.zeros(1, 1, 16, width, dtype=dtype, device=device)
    chosen = torch.zeros(1, 16, dtype=torch.int64, device=device), torch.ones(1, dtype=torch.int64, device=device)
    try:
        normalisers = module.row_normalisers(states, states, 1.0)
        for rows in (None, chosen):
            module.column_sums(states, states, 1.0, normalisers, rows)
    except Exception as error:  # of a compiler, a driver or a device that nobody foresaw: there is no list
        reason = next(iter(str(error).splitlines()), "")
        warnings.warn(
            f"{what} does not work here ({type(error).__name__}: {reason}); importance is computed without it, which "
            f"takes longer",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return module
