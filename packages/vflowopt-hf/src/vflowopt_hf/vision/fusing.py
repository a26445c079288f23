"""Whether the fused kernels of :mod:`vflowopt_hf.vision.fused_sums` serve; where they do not, stock operators do."""

import functools
import importlib.util
import warnings
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from vflowopt_hf.graphs.watch import Watch

_WIDEST = 256
"""Of a head: beyond, a block of rows does not fit."""


def fused_kernels(states: Tensor) -> Any | None:
    """:mod:`vflowopt_hf.vision.fused_sums` for query and key like ``states``, or ``None``.

    They need CUDA, Triton, and 16 bits: of float32 the tensor cores would drop bits that the tower's own products keep.
    A mode that looks on at operators, to count FLOPs for example, would not see them; that of recordings need not.
    """
    mode = _get_current_dispatch_mode()
    if mode is not None and not isinstance(mode, Watch):
        return None
    if not states.is_cuda or states.dtype not in (torch.bfloat16, torch.float16) or states.shape[-1] > _WIDEST:
        return None
    return _kernels(states.device, states.dtype, states.shape[-1])


@functools.cache
def _kernels(device: torch.device, dtype: torch.dtype, width: int) -> Any | None:
    """The module, once its kernels have run for these arguments, which compiles them."""
    if importlib.util.find_spec("triton") is None:
        return None
    from vflowopt_hf.vision import fused_sums

    states = torch.zeros(1, 1, 16, width, dtype=dtype, device=device)
    chosen = torch.zeros(1, 16, dtype=torch.int64, device=device), torch.ones(1, dtype=torch.int64, device=device)
    try:
        normalisers = fused_sums.row_normalisers(states, states, 1.0)
        for rows in (None, chosen):
            fused_sums.column_sums(states, states, 1.0, normalisers, rows)
    except Exception as error:  # of a compiler, a driver or a device that Triton does not know: there is no list
        reason = next(iter(str(error).splitlines()), "")
        warnings.warn(
            f"Triton does not work here ({type(error).__name__}: {reason}); importance is computed by torch's own "
            f"operators instead, which takes longer",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return fused_sums
