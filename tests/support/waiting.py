"""A recorder of what makes the host wait for an accelerator: on a CPU, where nothing waits, by what is called."""

import functools
import weakref
from contextlib import ExitStack
from unittest import mock

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from vflowopt_hf.graphs.tape import TO_HOST

DATA_DEPENDENT = {
    "_local_scalar_dense", "item", "nonzero", "masked_select", "unique_dim", "_unique2", "is_nonzero", "equal",
    "unique_consecutive", "repeat_interleave.Tensor",
}  # fmt: skip
FROM_HOST = {"tensor", "asarray", "as_tensor"}

_FROM_NUMPY = torch.from_numpy


class Waits:
    """Everything that would wait, while ``recording``: names of operators and functions, in order.

    ``copies`` has the shapes of what would be copied from the host to the device, waited for or not.
    """

    def __init__(self):
        self.recording, self.found, self.copies = False, [], []

    def note(self, name):
        if self.recording:
            self.found.append(name)

    def quiet_on_host(self, method):
        """A method whose result is on the host where its token ids are: to move it there is no move."""

        @functools.wraps(method)
        def call(input_ids, *args, **kwargs):
            if not self._functions.is_host(input_ids):
                return method(input_ids, *args, **kwargs)
            recording, self.recording = self.recording, False
            found = method(input_ids, *args, **kwargs)
            self.recording = recording
            return tree_map_only(torch.Tensor, self._functions.on_host, found)

        return call

    def __enter__(self):
        functions = self._functions = _Functions(self)
        with ExitStack() as stack:
            stack.enter_context(_Operators(self))
            stack.enter_context(functions)
            # No mode sees this one.
            stack.enter_context(mock.patch("torch.from_numpy", lambda array: functions.on_host(_FROM_NUMPY(array))))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error):
        self._stack.close()


def waiting_operator(func, args):
    """What an operator would wait for: values read back, or a shape that depends on values; else ``None``."""
    name = func.overloadpacket.__name__
    masks = args[1] if name in ("index", "index_put", "index_put_") else ()
    if any(isinstance(mask, torch.Tensor) and mask.dtype == torch.bool for mask in masks):
        return f"{name} by a boolean mask"
    return name if name in DATA_DEPENDENT or str(func).removeprefix("aten.") in DATA_DEPENDENT else None


class NoWaiting(TorchDispatchMode):
    """Refuses operators that wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = waiting_operator(func, args)
        if name:
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    """Notes operators that wait."""

    def __init__(self, waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = waiting_operator(func, args)
        if name:
            self.waits.note(name)
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    """Copies to the host, and copies of host arrays to the device that do not say ``non_blocking``."""

    def __init__(self, waits):
        super().__init__()
        self.waits, self.host = waits, {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in TO_HOST and isinstance(args[0] if args else None, torch.Tensor) and not self.is_host(args[0]):
            self.waits.note(name)
        if name == "to" and self.is_host(args[0]):
            if self.waits.recording:
                self.waits.copies.append(tuple(args[0].shape))
            if not kwargs.get("non_blocking"):
                self.waits.note("blocking copy to the device")
        goes = name in FROM_HOST and kwargs.get("device") is not None and not isinstance(args[0], torch.Tensor)
        if goes and np.size(args[0]):
            self.waits.note("blocking copy to the device")
        made = func(*args, **kwargs)
        if isinstance(made, tuple) and not isinstance(made, torch.Size) and args and self.is_host(args[0]):
            return tuple(self.on_host(part) for part in made)
        if not isinstance(made, torch.Tensor):
            return made
        if name == "cpu":
            return self.on_host(made.detach())  # not the tensor itself, as a copy from a device would not be
        if name in FROM_HOST and kwargs.get("device") is None:
            return self.on_host(made)
        if not args or not self.is_host(args[0]):
            return made
        return made.detach() if name == "to" else self.on_host(made)

    def on_host(self, tensor):
        self.host[id(tensor)] = weakref.ref(tensor)
        return tensor

    def is_host(self, tensor):
        known = self.host.get(id(tensor))
        return known is not None and known() is tensor
