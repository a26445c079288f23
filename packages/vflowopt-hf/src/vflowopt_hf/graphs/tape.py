"""CUDA graphs without CUDA: a tape of operators that a replay runs again on the very same tensors.

For tests and counts where there is no GPU. As with a graph, no Python runs in a replay but the operators, and what a
recording has made is overwritten: before each replay by numbers that nobody wants.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from vflowopt_hf.graphs.watch import UnrecordableError, tensors_in

T = TypeVar("T")

TO_HOST = frozenset({"tolist", "numpy", "cpu", "item", "__array__", "__bool__", "__int__", "__float__", "__index__"})
"""Methods that bring numbers of a tensor to the host."""


class Tape:
    """A recorder (:class:`vflowopt_hf.graphs.recorder.Recorder`) on the CPU.

    Attributes:
        records: recordings that were made.
        replays: how often any was replayed.
    """

    def __init__(self) -> None:
        self.records, self.replays, self.bytes, self.limit = 0, 0, 0, 1 << 30

    def on_device(self, tensor: Tensor) -> bool:  # noqa: ARG002
        """Whatever a tensor is on stands for the device."""
        return True

    def aside(self, work: Callable[[], T]) -> T:
        """See :meth:`vflowopt_hf.graphs.recorder.Recorder.aside`."""
        with _disable_current_modes():
            return work()

    def record(self, function: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """See :meth:`vflowopt_hf.graphs.recorder.Recorder.record`."""
        operators = _Operators()
        with operators, _NothingRead(operators):
            result = function()
        made = [tensor for *_, own in operators.calls for tensor in own]
        self.records += 1
        self.bytes += sum(tensor.nbytes for tensor in made)
        _spoil(made)

        def replay() -> None:
            self.replays += 1
            _spoil(made)
            for func, args, kwargs, own in operators.calls:
                result = func(*args, **kwargs)
                for target, source in zip(own, tensors_in(result), strict=bool(own)):
                    target.copy_(source)

        return replay, result

    def begin(self) -> None:
        """Nothing runs beside the host."""

    def end(self) -> None:
        """Nothing runs beside the host."""

    def settle(self) -> None:
        """Nothing runs beside the host."""

    def forget(self) -> None:
        """See :meth:`vflowopt_hf.graphs.recorder.Recorder.forget`."""
        self.bytes = 0


class _Operators(TorchDispatchMode):
    """Notes operators, and which tensors hold numbers that come from the device: such as come from weights."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.computed = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tensors_in((args, kwargs))
        computed = any(self.computed.get(tensor, tensor.is_floating_point()) for tensor in given)
        result = func(*args, **kwargs)
        before = {tensor.untyped_storage().data_ptr() for tensor in given}
        results = tensors_in(result)
        own = [tensor for tensor in results if tensor.untyped_storage().data_ptr() not in before]
        for tensor in results:
            self.computed[tensor] = computed or self.computed.get(tensor, False)
        if own or (func._schema.is_mutable and torch.Tag.inplace_view not in func.tags):
            own = own if len(own) == len(results) else []
            # Aliases, as operators such as unsqueeze_ change the shape of a tensor itself.
            self.calls.append((func, *tree_map_only(Tensor, Tensor.detach, (args, kwargs, own))))
        return result


class _NothingRead(TorchFunctionMode):
    """Refuses to read back what was computed, which no operator tells where host and device are one."""

    def __init__(self, operators: _Operators) -> None:
        super().__init__()
        self._operators = operators

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in TO_HOST and args and self._operators.computed.get(args[0], False):
            raise UnrecordableError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


def _spoil(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        tensor.fill_(torch.nan if tensor.is_floating_point() else 1)
