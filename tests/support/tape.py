"""CUDA graphs without CUDA: a tape of operators that a replay runs again on the very same tensors.

As with a graph, no Python runs in a replay but the operators, and what a recording has made is overwritten: before each
replay by numbers that nobody wants.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from support.waiting import TO_HOST
from vflowopt_hf.graphs.watch import UnrecordableError


class Tape:
    """A recorder (:class:`vflowopt_hf.graphs.recorder.Recorder`) on the CPU.

    Attributes:
        records: recordings that were made.
        replays: how often any was replayed.
    """

    def __init__(self):
        self.records, self.replays, self.bytes, self.limit = 0, 0, 0, 1 << 30

    def on_device(self, tensor):
        return True

    def aside(self, work):
        return work()

    def record(self, function):
        operators = _Operators()
        with operators, _NothingRead(operators):
            result = function()
        made = [tensor for *_, own in operators.calls for tensor in own]
        self.records += 1
        self.bytes += sum(tensor.nbytes for tensor in made)
        _spoil(made)

        def replay():
            self.replays += 1
            _spoil(made)
            for func, args, kwargs, own in operators.calls:
                result = func(*args, **kwargs)
                for target, source in zip(own, _tensors(result), strict=bool(own)):
                    target.copy_(source)

        return replay, result

    def begin(self):
        pass

    def end(self):
        pass

    def settle(self):
        pass

    def forget(self):
        self.bytes = 0


class _Operators(TorchDispatchMode):
    """Notes operators, and which tensors hold numbers that come from the device: such as come from weights."""

    def __init__(self):
        super().__init__()
        self.calls, self.computed = [], WeakIdKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = _tensors((args, kwargs))
        computed = any(self.computed.get(tensor, tensor.is_floating_point()) for tensor in given)
        result = func(*args, **kwargs)
        before = {tensor.untyped_storage().data_ptr() for tensor in given}
        results = _tensors(result)
        own = [tensor for tensor in results if tensor.untyped_storage().data_ptr() not in before]
        for tensor in results:
            self.computed[tensor] = computed or self.computed.get(tensor, False)
        if own or (func._schema.is_mutable and torch.Tag.inplace_view not in func.tags):
            own = own if len(own) == len(results) else []
            # Aliases, as operators such as unsqueeze_ change the shape of a tensor itself.
            self.calls.append((func, *tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs, own))))
        return result


class _NothingRead(TorchFunctionMode):
    """Refuses to read back what was computed, which no operator tells where host and device are one."""

    def __init__(self, operators):
        super().__init__()
        self.operators = operators

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in TO_HOST and args and self.operators.computed.get(args[0], False):
            raise UnrecordableError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


def _tensors(tree):
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _spoil(tensors):
    for tensor in tensors:
        tensor.fill_(torch.nan if tensor.is_floating_point() else 1)


def other_numbers(inputs, seed):
    """Inputs of the same shapes with other pixels; tokens, masks and sizes stay."""
    generator = torch.Generator().manual_seed(seed)

    def other(value):
        if not value.is_floating_point():
            return value.clone()
        return (torch.rand(value.shape, generator=generator) * 2 - 1).to(value.device, value.dtype)

    return {name: other(value) for name, value in inputs.items()}


def asking(inputs, placeholders, text):
    """The same prompts with so many tokens after the last visual one: their last three in turn, or the first of them.

    Args:
        inputs: of prompts without padding that end in three tokens of text at least.
        placeholders: token id of each modality.
        text: tokens wanted.
    """
    ids = inputs["input_ids"]
    visual = torch.isin(ids, torch.tensor(list(placeholders.values()))).any(dim=0).nonzero()
    end, own = int(visual[-1]) + 1, ids.shape[1]
    columns = torch.arange(end + text)
    columns = torch.where(columns < own, columns, own - 3 + (columns - own) % 3)
    return {name: value[:, columns] if value.shape == ids.shape else value for name, value in inputs.items()}
