"""Hooks before decoder layers, which are off while eager decoding steps need none."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.hooks.installing import Installed

Hook = Callable[..., Any]


class LayerHooks:
    """Hooks before all layers of a decoder but the first, whose hook stays on and says whether others are needed.

    They are on when the block begins, and while a forward holds them. What is compiled runs with the hooks that were
    there when it was, so that from then on they stay on.

    Args:
        layers: all layers.
        hooks: one for each.

    Attributes:
        are_off: whether they are taken off.
    """

    def __init__(self, layers: Sequence[nn.Module], hooks: Sequence[Hook]) -> None:
        self._pairs = list(zip(layers, hooks, strict=True))
        self._lock = threading.Lock()
        self._handles: list[RemovableHandle] = []
        self._holders = 0
        self._stay = self.are_off = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """They are there inside the block."""
        layer, hook = self._pairs[0]
        first = layer.register_forward_pre_hook(hook, with_kwargs=True)
        self._put_on()
        try:
            yield
        finally:
            with self._lock:
                self._take_off()
            first.remove()

    def hold(self) -> None:
        """A forward needs them; they are on until it releases them, and stay so."""
        with self._lock:
            self._holders += 1
            if self.are_off:
                self._put_on()

    def release(self) -> None:
        """A forward that held them has ended."""
        with self._lock:
            self._holders -= 1

    def rest(self) -> None:
        """A forward does not need them; they are taken off unless another one does, in whatever thread."""
        if self.are_off or self._stay:
            return
        with self._lock:
            if not self._holders:
                self._take_off()

    def require_on(self) -> None:
        """Check that they are on, as a step is being compiled, and keep them so.

        Raises:
            UnsupportedOperationError: they are off.
        """
        if self.are_off:
            raise UnsupportedOperationError(
                "a decoding step is being compiled after steps that ran eagerly, which have taken off what it needs; "
                "run a prefill first, or compile the first step"
            )
        self._stay = True

    def _put_on(self) -> None:
        self._handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer, hook in self._pairs[1:]]
        self.are_off = False

    def _take_off(self) -> None:
        self.are_off = True
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


class LayerHook(Installed):
    """Pre-hook of one decoder layer.

    Args:
        index: of the layer.
        before: given the index, the hidden states and all keyword arguments, gives other hidden states and changed
            arguments; ``None`` leaves everything as it is.
        reduced: given the index and a further argument, gives what the layer gets in its place.
    """

    def __init__(self, index: int, before: Callable[..., Any], reduced: Callable[[int, Any], Any]) -> None:
        self._index, self._before, self._reduced = index, before, reduced

    def __call__(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """See :meth:`torch.nn.Module.register_forward_pre_hook`."""
        found = self._before(self._index, args[0] if args else kwargs["hidden_states"], kwargs)
        if found is None:
            return None
        hidden, changed = found
        changed = changed if args else {**changed, "hidden_states": hidden}
        further = {
            name: self._reduced(self._index, value)
            for name, value in kwargs.items()
            if isinstance(value, Tensor) and name not in changed
        }
        positional = (self._reduced(self._index, value) if isinstance(value, Tensor) else value for value in args[1:])
        return ((hidden, *positional) if args else args), kwargs | further | changed
