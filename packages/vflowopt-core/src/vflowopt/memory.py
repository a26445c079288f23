"""What was made before and may be wanted again: a bounded number of values by key."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Memory(Generic[V]):
    """Values by key; of more than a limit, the one that was asked for longest ago is forgotten.

    Threads may share it. Two of them that ask for the same value at once may both make it; both get the first.

    Args:
        limit: how many values are remembered.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key, made if it is not remembered."""
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        made = make()
        with self._lock:
            value = self._known.setdefault(key, made)
            while len(self._known) > self._limit:
                self._known.popitem(last=False)
        return value
