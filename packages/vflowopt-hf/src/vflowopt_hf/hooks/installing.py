"""Put things on a model for the time of a block, once at a time, and take them off again as they were found."""

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, NoReturn

from torch import nn

from vflowopt.errors import PruningStateError

CLAIM = "_vflowopt"
"""The attribute of a module that says who has hooks on it."""


class Installed:
    """What holds hooks on a model; refuses to be copied, so that a copied model cannot share them in silence."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be copied or pickled.

        Raises:
            PruningStateError: always.
        """
        raise PruningStateError(
            "a model that is being pruned cannot be copied or pickled; leave its `with prune(...)` first, or call "
            "stop() (saving its weights with save_pretrained or state_dict works while it is pruned, too)"
        )


@contextmanager
def claimed(module: nn.Module, owner: Installed) -> Iterator[None]:
    """Nobody else may install hooks on a module inside the block, in whatever thread.

    Raises:
        PruningStateError: somebody has.
    """
    vars(module).setdefault(CLAIM, owner)  # one step: of two threads, one wins
    require_unclaimed(module, owner)
    try:
        yield
    finally:
        del vars(module)[CLAIM]


@contextmanager
def replaced(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """An attribute of this one instance is another one inside the block."""
    with inserted(vars(module), name, value):
        yield


@contextmanager
def inserted(entries: MutableMapping[Any, Any], name: str, value: Any) -> Iterator[None]:
    """An entry is another one inside the block, or there."""
    missing = object()
    before = entries.get(name, missing)
    entries[name] = value
    try:
        yield
    finally:
        if before is missing:
            del entries[name]
        else:
            entries[name] = before


@contextmanager
def at_end(module: nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    """Inside the block, every forward of a module ends with a call of a hook, also if it fails.

    That is ``register_forward_hook(hook, always_call=True)``, but under the same key in every block: what
    ``torch.compile`` has compiled depends on the keys of such hooks.

    Args:
        module: the module; it has one such hook at most.
        hook: called with the module, its arguments and its output, which is ``None`` if the forward has failed.
    """
    with inserted(module._forward_hooks, CLAIM, hook), inserted(module._forward_hooks_always_called, CLAIM, True):
        yield


def require_unclaimed(module: nn.Module, owner: Installed | None = None) -> None:
    """Check that nobody else has hooks on a module.

    Raises:
        PruningStateError: somebody has.
    """
    if vars(module).get(CLAIM, owner) is not owner:
        raise PruningStateError(
            f"this {type(module).__name__} is being pruned already or measured; leave the outer `with prune(...)`, or "
            f"call its stop(), first"
        )
