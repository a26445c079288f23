"""Observe attention modules without changing what they compute."""

import copy
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.hooks.installing import Installed
from vflowopt_hf.vision.products import has_seen_products, products_through


@contextmanager
def attention_calls(
    module: nn.Module,
    note: Callable[[Tensor, Tensor, Tensor, float, Any, Mapping[str, Any]], None],
    around: Callable[..., Any] | None = None,
) -> Iterator[None]:
    """Hand what an attention module's function is called with to ``note``, and leave what it computes as it is.

    Inside the block the module has a copy of its config that selects a wrapper attention function. The wrapper calls
    ``note`` and then whatever implementation was configured, so outputs stay bitwise the same with eager, sdpa, flash
    or any other attention. The config is put back on exit. A module without such a config calls torch's own product
    (:mod:`vflowopt_hf.vision.products`).

    Args:
        module: an attention module of transformers that reads ``config._attn_implementation`` at every call, or of
            another library.
        note: called with query, key, value, the factor of the scores, the mask and all keyword arguments.
        around: called in the function's place, with the function before its arguments; ``None`` for the function.

    Raises:
        UnsupportedModelError: the module has no config to select an attention function by, where one is to be called
            in its place; in a forward: the module does not call torch's product.
    """
    original = getattr(module, "config", None)
    implementation = getattr(original, "_attn_implementation", None)
    if original is None or implementation is None:
        if around is not None:
            raise UnsupportedModelError(
                f"{type(module).__name__} does not select its attention through config._attn_implementation"
            )
        with products_through(module, partial(_noted, note)):
            yield
        return
    # The eager function is each modeling file's own; every other implementation is found by name.
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    base = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)

    # Upstream chooses between packed and separate views by the name of the implementation: keep it as a part.
    name = f"vflowopt-observe-{implementation}"
    config = copy.copy(original)
    config._attn_implementation_internal = name  # the public setter would check the name against the hub
    config.vflowopt_observer = _Observer(note, base, around)
    with _registering:
        shared = ALL_ATTENTION_FUNCTIONS.get(name)
        if shared is None:
            shared = ALL_ATTENTION_FUNCTIONS[name] = _ObservedAttention()
        shared.users += 1
    module.config = config
    try:
        yield
    finally:
        module.config = original
        with _registering:
            shared.users -= 1
            if not shared.users:
                del ALL_ATTENTION_FUNCTIONS[name]


_registering = threading.Lock()
"""Upstream's table of attention functions is one for all models, which threads may enter blocks of at once."""


@dataclass(frozen=True, eq=False)
class _Observer(Installed):
    """Who looks on at a module's attention, and the function that computes it."""

    note: Callable[[Tensor, Tensor, Tensor, float, Any, Mapping[str, Any]], None]
    base: Callable[..., Any]
    around: Callable[..., Any] | None


def is_observed(module: nn.Module) -> bool:
    """Whether somebody looks on at the attention of a module."""
    return hasattr(getattr(module, "config", None), "vflowopt_observer") or has_seen_products(module)


def _noted(
    note: Callable[[Tensor, Tensor, Tensor, float, Any, Mapping[str, Any]], None],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scaling: float,
    product: Callable[[], Tensor],
) -> Tensor:
    note(query, key, value, scaling, None, {})
    return product()


class _ObservedAttention:
    """The attention function of every module that is observed with one implementation.

    There is one for all of them, as decoding steps that were compiled in another block depend on the registered names.
    """

    def __init__(self) -> None:
        self.users = 0

    def __call__(self, module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        observer = module.config.vflowopt_observer
        if not torch.compiler.is_compiling():  # then it is a decoding step
            scaling = kwargs.get("scaling")
            scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
            observer.note(query, key, value, scaling, args[0] if args else kwargs.get("attention_mask"), kwargs)
        if observer.around is not None:
            return observer.around(observer.base, module, query, key, value, *args, **kwargs)
        return observer.base(module, query, key, value, *args, **kwargs)
