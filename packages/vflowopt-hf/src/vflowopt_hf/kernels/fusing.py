"""Which kernels serve, if any: where none does, stock operators do."""

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from vflowopt.components.greedy import Greedy
from vflowopt_hf.graphs.watch import Watch

_WIDEST = 248
"""Of a head: both modules have room for 256 numbers, three of which the second adds, in eights."""

_MOST_TOKENS = 1 << 14
"""Of a unit whose tokens are chosen by one program."""

_TRITON, _TORCH = "Triton", "torch's fused attention"

_GRID = (1 << 16) - 1
"""Heads of views that Triton's kernels do at once."""


Kernels = TypeVar("Kernels")


class ColumnSums(Protocol):
    """Column sums of softmax attention in two passes: what modules of kernels offer, each in units of its own.

    Query is bfloat16 or float16 [views, heads, rows, head_dim], key the same [views, key heads, positions, head_dim].
    """

    def row_normalisers(self, query: Tensor, key: Tensor, scaling: float) -> Tensor:
        """What each row of ``softmax(scaling * query @ key^T)`` is divided by, as a logarithm.

        Returns:
            float32 [views, heads, rows], for :meth:`column_sums` of the same module.
        """
        ...

    def column_sums(
        self,
        query: Tensor,
        key: Tensor,
        scaling: float,
        normalisers: Tensor,
        chosen: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Sum over query rows and mean over heads of ``softmax(scaling * query @ key^T)``, of each view.

        Args:
            query: see the class.
            key: likewise.
            scaling: factor of the scores.
            normalisers: what :meth:`row_normalisers` returns for all rows.
            chosen: the rows that count, by default all: int64 [views, chosen], and how many of them, the first ones, do
                in each view, int [views].

        Returns:
            float32 [views, positions].
        """
        ...


def fused_kernels(states: Tensor) -> ColumnSums | None:
    """A module of kernels for query and key like ``states``, or ``None``.

    On CUDA :mod:`vflowopt_hf.kernels.fused_sums`, and where Triton does not work
    :mod:`vflowopt_hf.kernels.swapped_sums`. Both take 16 bits alone: of float32 the tensor cores would drop bits that
    the tower's own products keep. A mode that looks on at operators, to count FLOPs for example, would not see kernels;
    that of recordings need not.
    """
    mode = _get_current_dispatch_mode()
    if mode is not None and not isinstance(mode, Watch):
        return None
    views, heads, _, width = states.shape
    if not states.is_cuda or states.dtype not in (torch.bfloat16, torch.float16) or width > _WIDEST:
        return None
    return _sums(states.device, states.dtype, width) if views * heads <= _GRID else None


def fused_order(device: torch.device, tokens: int) -> Greedy | None:
    """:func:`vflowopt_hf.kernels.fused_order.choose_greedily` for units of so many tokens, or ``None``."""
    return _order(device) if device.type == "cuda" and tokens <= _MOST_TOKENS else None


@functools.cache
def _sums(device: torch.device, dtype: torch.dtype, width: int) -> ColumnSums | None:
    def attempt(name: str) -> ColumnSums:
        module = cast("ColumnSums", importlib.import_module(f"vflowopt_hf.kernels.{name}"))
        states = torch.zeros(1, 1, 16, width, dtype=dtype, device=device)
        chosen = torch.zeros(1, 16, dtype=torch.int64, device=device), torch.ones(1, dtype=torch.int64, device=device)
        normalisers = module.row_normalisers(states, states, 1.0)
        for rows in (None, chosen):
            module.column_sums(states, states, 1.0, normalisers, rows)
        return module

    module = _working(_TRITON, lambda: attempt("fused_sums")) if _has_triton() else None
    return module or _working(_TORCH, lambda: attempt("swapped_sums"))


@functools.cache
def _order(device: torch.device) -> Greedy | None:
    def attempt() -> Greedy:
        from vflowopt_hf.kernels.fused_order import choose_greedily

        worth, distance = torch.zeros(1, 2, device=device), torch.zeros(1, 2, 2, device=device)
        choose_greedily(worth, distance, 2, worth)
        return choose_greedily

    return _working(_TRITON, attempt) if _has_triton() else None


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _working(what: str, attempt: Callable[[], Kernels]) -> Kernels | None:
    """What an attempt returns, once its kernels have run, which compiles them where they need it."""
    try:
        return attempt()
    except torch.OutOfMemoryError:  # says nothing of what works here
        raise
    except Exception as error:  # of a compiler, a driver or a device that nobody foresaw: there is no list
        reason = next(iter(str(error).splitlines()), "")
        warnings.warn(
            f"{what} does not work here ({type(error).__name__}: {reason}); tokens are chosen without it, which takes "
            f"longer",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
