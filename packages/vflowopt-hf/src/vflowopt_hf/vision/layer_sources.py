"""The attention of vision layers before the observed one, query and key whole: for components that name them."""

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from vflowopt.errors import StrategyError
from vflowopt_hf.family import Family
from vflowopt_hf.vision.capture import TorchAttention
from vflowopt_hf.vision.class_rows import vision_layers
from vflowopt_hf.vision.observing import attention_calls


class LayerCapture(threading.local):
    """Receives the attention of some layers while a recording is open, which every thread has its own of.

    Args:
        layers: their numbers.
        class_tokens: leading positions of a view that are no patches.
    """

    def __init__(self, layers: Collection[int], class_tokens: int) -> None:
        self._layers, self._class_tokens = tuple(layers), class_tokens
        self._calls: dict[int, list[TorchAttention]] | None = None

    @contextmanager
    def recording(self) -> Iterator[Mapping[int, list[TorchAttention]]]:
        """The list of each layer fills with one source per call of its attention function inside the block."""
        self._calls = {layer: [] for layer in self._layers}
        try:
            yield self._calls
        finally:
            self._calls = None

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
        if self._calls is not None:
            bounds = options.get("cu_seq_lens_q")
            source = TorchAttention.of_call(query, key, scaling, bounds, mask, self._class_tokens)
            self._calls[layer].append(source)


@contextmanager
def capture_layers(family: Family, model: Any, layers: Collection[int]) -> Iterator[LayerCapture]:
    """Observe some vision layers before the observed one inside the block.

    Args:
        family: of the model.
        model: the model.
        layers: their numbers from 0; that of the observed one, which is the last, is left out.

    Raises:
        StrategyError: there is no such layer.
        UnsupportedModelError: an attention module has no config to select an attention function by.
    """
    stack = vision_layers(family, model)
    wrong = sorted(layer for layer in layers if not 0 <= layer < len(stack))
    if wrong:
        raise StrategyError(
            f"attention of vision layer {wrong[0]} is needed, but {family.name} models have layers 0 to "
            f"{len(stack) - 1} up to the one whose output they use"
        )
    earlier = sorted(set(layers) - {len(stack) - 1})
    capture = LayerCapture(earlier, family.class_tokens)
    with ExitStack() as observers:
        for layer in earlier:
            observers.enter_context(attention_calls(stack[layer], partial(capture.note, layer)))
        yield capture
