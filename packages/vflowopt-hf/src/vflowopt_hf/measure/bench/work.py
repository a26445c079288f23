"""What a run has to do at least: FLOPs by torch's counter, and the bytes that have to be moved."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

_ATEN = torch.ops.aten
_PICKING = {_ATEN.embedding, _ATEN.index, _ATEN.gather, _ATEN.index_select}
"""Operators that read no more of their first argument than they give."""


@dataclass(frozen=True)
class Counted:
    """One run.

    Attributes:
        flops: by torch's counter, which counts every pair of positions in attention.
        layer_flops: the same in modules called ``layers.<number>`` of the outermost module that ran.
        moved: see :class:`vflowopt.benchmark.Work`.
    """

    flops: int
    layer_flops: int
    moved: int


def counted(task: Callable[[], object]) -> Counted:
    """Run ``task`` once and count; what it returns counts as left."""
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as flops, Traffic() as traffic:
        kept = task()
    left = traffic.left()
    del kept
    layers = [
        sum(by_operator.values())
        for name, by_operator in flops.get_flop_counts().items()
        if re.fullmatch(r"[^.]+\.layers\.\d+", name)
    ]
    return Counted(flops.get_total_flops(), sum(layers), traffic.read + left)


class Traffic(TorchDispatchMode):
    """Bytes of every tensor that was there before the block and is read in it, once, and of what the block leaves."""

    def __init__(self) -> None:
        super().__init__()
        self._read: dict[int, tuple[torch.UntypedStorage, int]] = {}  # held, so that no place is used twice
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note what one operator reads and makes."""
        output = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for number, tensor in enumerate(given):
            storage = tensor.untyped_storage()
            place = storage.data_ptr()
            if place in self._made and not self._made[place][0].expired():
                continue
            size = 0 if _is_view(func) else tensor.nbytes
            if number == 0 and func.overloadpacket in _PICKING:
                size = min(size, sum(result.nbytes for result in made))
            known = self._read[place][1] if place in self._read else 0
            self._read[place] = storage, min(known + size, storage.nbytes())  # parts add up, repetition does not
        for tensor in made:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._read:
                self._made[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return output

    @property
    def read(self) -> int:
        """Bytes read of what was there before."""
        return sum(size for _, size in self._read.values())

    def left(self) -> int:
        """Bytes of what was made and is still there."""
        return sum(size for storage, size in self._made.values() if not storage.expired())


def _is_view(func: Any) -> bool:
    """Views and shapes read nothing."""
    returns = func._schema.returns
    return any(result.alias_info is not None and not result.alias_info.is_write for result in returns)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Of shapes [batch, heads, rows, features]: both products of every query head, whoever shares its keys."""
    batch, heads, queries, features = query
    return int(2 * batch * heads * queries * key[2] * (features + value[3]))


# torch has no formula for its fused attention on the CPU, and up to 2.11 refuses keys that several heads share. The
# unfused one consists of products, which it counts.
FORMULAS = {
    getattr(_ATEN, f"_scaled_dot_product_{kind}"): _attention_flops
    for kind in ("flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu")
}
