"""Arguments that upstream's encoders read as Python numbers: they are on the host before the vision tower runs.

After it, reading them would wait for it. A tower that takes them, too, gets them as they came.
"""

import functools
import inspect
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from vflowopt_hf.graphs.trees import changed
from vflowopt_hf.hooks.installing import replaced


class HostArguments(threading.local):
    """Which tensors were brought to the host for a call of this thread.

    Args:
        names: of arguments of the encoders.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._moved: list[tuple[Tensor, Tensor]] = []

    def placed(
        self, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of a call, those of the names on the host."""
        self._moved = []
        named = tuple(self._on_host(name, value) for name, value in zip(signature.parameters, args, strict=False))
        return (*named, *args[len(named) :]), {name: self._on_host(name, value) for name, value in kwargs.items()}

    def _on_host(self, name: str, value: Any) -> Any:
        if name not in self._names or not isinstance(value, Tensor):
            return value
        host = value.cpu()
        self._moved.append((host, value))
        return host

    def _as_it_came(self, tensor: Tensor) -> Tensor:
        return next((came for host, came in self._moved if host is tensor), tensor)

    @contextmanager
    def kept_from(self, tower: nn.Module) -> Iterator[None]:
        """Inside the block, the tower is called with what was given where the encoders see a copy on the host."""
        original = tower.forward

        @functools.wraps(original)
        def forward(*args: Any, **kwargs: Any) -> Any:
            if self._moved:
                args, kwargs = changed((args, kwargs), self._as_it_came)
            return original(*args, **kwargs)

        with replaced(tower, "forward", forward):
            yield
