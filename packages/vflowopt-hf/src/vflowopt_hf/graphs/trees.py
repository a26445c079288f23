"""Arguments and results as trees: tensors at the leaves of containers, dataclasses and cache layers."""

import copy
import dataclasses
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin
from transformers.utils.generic import ModelOutput

Change = Callable[[Tensor], Tensor]

_LEAVES = (bool, int, float, str, type)


class HoldsTensors(Protocol):
    """An object that knows which tensors it holds."""

    def each(self, change: Change) -> Any:
        """The same object with every tensor changed, and nothing remembered that was computed from them."""
        ...


class UnknownArgumentError(Exception):
    """An argument by whose value a graph cannot be told apart from another."""


def changed(tree: Any, change: Change) -> Any:
    """The same tree with every tensor changed; what holds no tensor is the same object."""
    if isinstance(tree, Tensor):
        return change(tree)
    if tree is None or isinstance(tree, _LEAVES):
        return tree
    if isinstance(tree, ModelOutput):
        return type(tree)(**{name: changed(value, change) for name, value in tree.items()})
    each = getattr(type(tree), "each", None)  # of HoldsTensors: to ask a protocol takes many times longer
    if each is not None:
        return each(tree, change)
    if isinstance(tree, dict):
        return {name: changed(value, change) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        parts = [changed(part, change) for part in tree]
        if isinstance(tree, list):
            return parts
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if dataclasses.is_dataclass(tree) or isinstance(tree, CacheLayerMixin):
        return _with_attributes(tree, change)
    return tree


def _with_attributes(tree: Any, change: Change) -> Any:
    before = vars(tree)
    after = {name: changed(value, change) for name, value in before.items()}
    if all(after[name] is value for name, value in before.items()):
        return tree
    twin = copy.copy(tree)
    vars(twin).update(after)
    return twin


def tensors_of(tree: Any) -> list[Tensor]:
    """The tensors of a tree, in the order in which :func:`changed` comes to them."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    changed(tree, note)
    return found


def signature(tree: Any, numbers: Callable[[Tensor], Hashable] = lambda _: None) -> Hashable:
    """What tells trees apart but the numbers in their tensors.

    Args:
        tree: tensors, containers, and values that can be compared.
        numbers: what of the numbers in a tensor tells trees apart, too.

    Raises:
        UnknownArgumentError: something else.
    """
    if isinstance(tree, Tensor):
        return (tuple(tree.shape), tree.stride(), tree.dtype, tree.device, numbers(tree))
    if tree is None or isinstance(tree, bool | int | float | str | torch.dtype | torch.device):
        return (type(tree), tree)
    if isinstance(tree, Mapping):
        return (type(tree), *((name, signature(value, numbers)) for name, value in tree.items()))
    if isinstance(tree, list | tuple):
        return (type(tree), *(signature(part, numbers) for part in tree))
    raise UnknownArgumentError(f"an argument is of type {type(tree).__name__}")


def identity(tree: Any) -> Hashable | None:
    """What tells trees apart, whole numbers and truth values in tensors included, which are waited for.

    Returns:
        ``None`` if nothing does.
    """
    try:
        return signature(tree, _whole_numbers)
    except UnknownArgumentError:
        return None


def _whole_numbers(tensor: Tensor) -> Hashable:
    return None if tensor.is_floating_point() else tensor.cpu().numpy().tobytes()
