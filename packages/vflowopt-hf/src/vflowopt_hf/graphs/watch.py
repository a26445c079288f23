"""Watches what is recorded operator by operator: what a graph cannot hold is refused before it is run."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from vflowopt_hf.graphs.recorder import Recorder

_OF_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray)

_WAITING = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_BY_MASK = frozenset({"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"})
_COPYING = frozenset({"copy_", "where", "index_put", "index_put_", "_index_put_impl_"})
"""What copies even a single number of the host to the device; others are handed it with their arguments."""


class UnrecordableError(Exception):
    """Why something cannot be recorded."""


class Watch(TorchDispatchMode):
    """Looks at each operator of what is recorded, before it runs.

    Memory of the host that goes to the device is a constant: what the host decides is the same in every replay. It is
    copied beside the recording. Refused are operators that wait for the device, bring memory back from it, or change
    what others use: a recording that fails in the middle would leave the device in a state that others would feel.

    Numbers that are the same in every replay, such as sizes of pictures, and what follows from them, are worked with
    beside the recording, too; there they may be waited for.

    Args:
        recorder: records meanwhile.
        inputs: tensors that are filled anew before each replay.
        fixed: tensors that are read besides, and hold the same numbers in every replay.

    Attributes:
        outside: all other tensors that are read and were there before, or are constants: they must stay where they are.
    """

    def __init__(self, recorder: Recorder, inputs: Iterable[Tensor], fixed: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.outside: list[Tensor] = []
        self._known = WeakIdKeyDictionary()  # whether what is recorded has made the tensor
        self._fixed = WeakIdKeyDictionary()  # tensors that hold the same numbers in every replay
        self._recorder = recorder
        for tensor in inputs:
            self._known[tensor] = True
        for tensor in fixed:
            self._fix(tensor)
        self._follows = bool(self._fixed)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Look at what is done inside the block."""
        with _Constants(self), self:
            yield

    def constant(self, make: Callable[[], Tensor]) -> Tensor:
        """Something that is made of memory of the host, beside the recording."""
        made: Tensor = self._recorder.aside(make)
        self._fix(made)
        return made

    def _fix(self, tensor: Tensor) -> None:
        self._note_outside(tensor)
        self._fixed[tensor] = True

    def has_made(self, tensor: Tensor) -> bool:
        """Whether a tensor is an input, or was made while watching: its numbers change with every replay."""
        made: bool = self._known.get(tensor, False)
        return made

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See the class."""
        kwargs = kwargs or {}
        given = tensors_in((args, kwargs))
        here = [tensor for tensor in given if self._recorder.on_device(tensor)]
        if not here and any(tensor.numel() for tensor in given) and _goes_to_device(func, kwargs):
            return self.constant(lambda: func(*args, **kwargs))
        if self._follows and self._is_fixed(func, given):
            return self._aside(lambda: func(*args, **kwargs))
        self._refuse(func, args, kwargs, given, here)
        for tensor in here:
            self._note_outside(tensor)
        result = func(*args, **kwargs)
        for tensor in tensors_in(result):
            if tensor not in self._known:
                self._known[tensor] = True
        return result

    def _is_fixed(self, func: Any, given: list[Tensor]) -> bool:
        """Whether what an operator makes is the same in every replay."""
        if func._schema.is_mutable:  # what was recorded before would read what it changes in every replay
            return False
        return all(tensor in self._fixed for tensor in given) if given else func.overloadpacket is torch.ops.aten.arange

    def _aside(self, work: Callable[[], Any]) -> Any:
        result = self._recorder.aside(work)
        for tensor in tensors_in(result):
            self._fix(tensor)
        return result

    def _note_outside(self, tensor: Tensor) -> None:
        if tensor not in self._known:
            self.outside.append(tensor.detach())  # where it is, also if a weight gets other memory
            self._known[tensor] = False

    def _refuse(self, func: Any, args: Any, kwargs: Any, given: list[Tensor], here: list[Tensor]) -> None:
        name = func.overloadpacket.__name__
        if here and waits(func, args, kwargs):
            raise UnrecordableError(f"{name} waits for the device")
        host = [tensor for tensor in given if tensor.numel() and not any(tensor is one for one in here)]
        target = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
        leaves = target is not None and any(tensor.device.type != target for tensor in here)
        if leaves or (here and any(tensor.ndim or name in _COPYING for tensor in host)):
            raise UnrecordableError(f"{name} moves memory between host and device")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(value, Tensor) and self._recorder.on_device(value) and not self.has_made(value):
                raise UnrecordableError(f"{name} changes a tensor that others use")


class _Constants(TorchFunctionMode):
    """Sees tensors that are made of numbers right on the device: the copy is below what operators tell."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See the class."""
        kwargs = kwargs or {}
        if func not in _OF_NUMBERS or kwargs.get("device") is None or not args or isinstance(args[0], Tensor):
            return func(*args, **kwargs)
        return self._watch.constant(lambda: func(*args, **kwargs))


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors among arguments or results of an operator."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _goes_to_device(func: Any, kwargs: Any) -> bool:
    target = kwargs.get("device")
    return "pin_memory" in func.overloadpacket.__name__ or (target is not None and torch.device(target).type != "cpu")


def waits(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operator waits for the device, as its result, or the shape of that, depends on values there."""
    name = func.overloadpacket.__name__
    if name in _BY_MASK:
        return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    return any(tag in func.tags for tag in _WAITING)
