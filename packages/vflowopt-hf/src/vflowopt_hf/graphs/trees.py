"""Arguments and results as trees: tensors at the leaves of containers, dataclasses and cache layers."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin
from transformers.utils.generic import ModelOutput

Change = Callable[[Tensor], Tensor]

_LEAVES = (bool, int, float, str, type, type(None))


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
    handed_on = _handed_on(type(tree))  # type: ignore[arg-type]  # types are hashable
    return tree if handed_on is None else handed_on(tree, change)


@functools.lru_cache(maxsize=256)
def _handed_on(kind: type) -> Callable[[Any, Change], Any] | None:
    """How trees of a type are changed, found out once: results have many parts of few types. ``None`` if they stay."""
    if issubclass(kind, _LEAVES):
        return None
    if issubclass(kind, ModelOutput):
        return _output
    each: Callable[[Any, Change], Any] | None = getattr(kind, "each", None)  # of HoldsTensors
    if each is not None:
        return each
    if issubclass(kind, dict):
        return _dict
    if issubclass(kind, list):
        return _list
    if issubclass(kind, tuple):
        return _named_tuple if hasattr(kind, "_fields") else _tuple
    return _with_attributes if dataclasses.is_dataclass(kind) or issubclass(kind, CacheLayerMixin) else None


def _output(tree: Any, change: Change) -> Any:
    return type(tree)(**_dict(tree, change))


def _dict(tree: dict[Any, Any], change: Change) -> dict[Any, Any]:
    return {name: changed(value, change) for name, value in tree.items()}


def _list(tree: Iterable[Any], change: Change) -> list[Any]:
    return [changed(part, change) for part in tree]


def _tuple(tree: tuple[Any, ...], change: Change) -> tuple[Any, ...]:
    return tuple(_list(tree, change))


def _named_tuple(tree: Any, change: Change) -> Any:
    return type(tree)(*_list(tree, change))


def _with_attributes(tree: Any, change: Change) -> Any:
    before = vars(tree)
    after = _dict(before, change)
    if all(after[name] is value for name, value in before.items()):
        return tree
    twin = object.__new__(type(tree))
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
        return signature(tree, lambda tensor: None if tensor.is_floating_point() else numbers_in(tensor))
    except UnknownArgumentError:
        return None


def numbers_in(tensor: Tensor) -> bytes:
    """The numbers in a tensor, which are waited for."""
    return tensor.cpu().numpy().tobytes()


def is_whole(tensor: Tensor) -> bool:
    """Whether a tensor holds whole numbers, as sizes and places are, and not truth values."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
