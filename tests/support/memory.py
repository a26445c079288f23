"""How much memory a computation holds beyond what was there before, by the tensors that its operations make."""

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Inside the block, notes the most bytes that new tensors hold at once; ``meta`` tensors count as if real."""

    def __init__(self):
        super().__init__()
        self.bytes, self._held = 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in known:  # a view, or a result in place, makes none
                    self._held[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._held = {key: held for key, held in self._held.items() if not held[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self._held.values()))
        return out


def peak_memory(computation):
    """Bytes that a function without arguments holds at most, see :class:`PeakMemory`."""
    with PeakMemory() as peak:
        computation()
    return peak.bytes
