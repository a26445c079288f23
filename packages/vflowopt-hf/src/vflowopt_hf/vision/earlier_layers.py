"""Records the attention of vision layers before the observed one: what is kept of a call, its recorder says."""

import threading
from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from torch import Tensor

from vflowopt_hf.vision.vision_call import VisionCall

Kept = TypeVar("Kept")


class LayerRecorder(threading.local, Generic[Kept]):
    """Receives the attention of some layers while a recording is open, which every thread has its own of.

    Args:
        layers: their numbers.
    """

    def __init__(self, layers: Collection[int]) -> None:
        self._layers = tuple(layers)
        self._recorded: dict[int, list[Kept]] | None = None

    @abstractmethod
    def kept(self, call: VisionCall) -> Iterable[Kept]:
        """What is kept of one call."""

    @property
    def noted(self) -> list[list[Kept]]:
        """The lists that are being filled in this thread, if some are."""
        return [] if self._recorded is None else list(self._recorded.values())

    @contextmanager
    def recording(self) -> Iterator[Mapping[int, list[Kept]]]:
        """The list of each layer fills inside the block, call by call of its attention function."""
        self._recorded = {layer: [] for layer in self._layers}
        try:
            yield self._recorded
        finally:
            self._recorded = None

    def note(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        _value: Tensor,
        scaling: float,
        mask: object,
        options: Mapping[str, Any],
    ) -> None:
        """Record one call of a layer's attention function."""
        if self._recorded is not None:
            call = VisionCall(query, key, scaling, options.get("cu_seq_lens_q"), mask)
            self._recorded[layer].extend(self.kept(call))
