"""The attention of vision layers before the observed one, query and key whole: for components that name them."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from vflowopt.errors import StrategyError
from vflowopt_hf.family import Family
from vflowopt_hf.vision.class_rows import vision_layers
from vflowopt_hf.vision.earlier_layers import LayerRecorder
from vflowopt_hf.vision.observing import attention_calls
from vflowopt_hf.vision.vision_call import VisionCall


class LayerCapture(LayerRecorder[VisionCall]):
    """Keeps the calls as they are."""

    def kept(self, call: VisionCall) -> Iterable[VisionCall]:
        """See :meth:`vflowopt_hf.vision.earlier_layers.LayerRecorder.kept`."""
        return (call,)


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
    capture = LayerCapture(earlier)
    with ExitStack() as observers:
        for layer in earlier:
            observers.enter_context(attention_calls(stack[layer], partial(capture.note, layer)))
        yield capture
