"""The vision tower as a recording: its forward, with what was noted of its attention on the way."""

import functools
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt_hf.graphs.modules import Recorded
from vflowopt_hf.graphs.store import Graphs
from vflowopt_hf.graphs.trees import UnknownArgumentError, is_whole, numbers_in, signature, tensors_of
from vflowopt_hf.graphs.watch import UnrecordableError
from vflowopt_hf.hooks.installing import replaced

PART = "vision tower"


def _sizes(tensor: Tensor) -> Hashable:
    """What a native-resolution tower computes places and ends of pictures from, and reads back from the device."""
    return numbers_in(tensor) if is_whole(tensor) else None


def tower_of(backbone: nn.Module, attention: nn.Module) -> nn.Module:
    """The part of a backbone in which the observed attention is."""
    return next(child for child in backbone.children() if any(part is attention for part in child.modules()))


@contextmanager
def graphed_tower(tower: nn.Module, graphs: Graphs, noted: Callable[[], list[list[Any]]]) -> Iterator[None]:
    """Inside the block, forwards of the tower that are observed are recorded and replayed.

    Args:
        tower: the module.
        graphs: holds the recordings.
        noted: the lists that are being filled in this thread with what is noted of the attention; none where nobody
            looks on.
    """
    original, recorded = tower.forward, Recorded(tower)

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        lists = [] if torch.compiler.is_compiling() else noted()
        key = key_of(args, kwargs) if lists else None
        if key is None or not graphs.is_due(PART, key):
            return original(*args, **kwargs)

        def run(inputs: Any) -> Any:
            starts = [len(entries) for entries in lists]
            try:
                output = original(*inputs[0], **inputs[1])
                return output, [entries[start:] for entries, start in zip(lists, starts, strict=True)]
            finally:
                for entries, start in zip(lists, starts, strict=True):
                    del entries[start:]

        try:
            output, made = graphs.run(PART, key, (args, kwargs), run, is_whole)
        except UnrecordableError as error:
            graphs.fall_back(PART, str(error))
            return original(*args, **kwargs)
        for entries, own in zip(lists, made, strict=True):
            entries.extend(own)
        return output

    def key_of(args: Any, kwargs: Any) -> Any:
        tensors = tensors_of((args, kwargs))
        state, reason = recorded.state()
        reason = reason or graphs.reason_against(tensors)
        try:
            if reason is None:
                return signature((args, kwargs), _sizes), state
        except UnknownArgumentError as error:
            reason = str(error)
        graphs.fall_back(PART, reason)
        return None

    with replaced(tower, "forward", forward):
        yield
