"""A dispatch mode that refuses to wait for an accelerator."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITS = {"_local_scalar_dense", "item", "nonzero", "masked_select", "unique_dim", "_unique2", "is_nonzero", "equal"}


class NoWaiting(TorchDispatchMode):
    """Refuses what makes the host wait for an accelerator: values read back, and shapes that depend on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in WAITS or any(isinstance(mask, torch.Tensor) and mask.dtype == torch.bool for mask in masks):
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))
