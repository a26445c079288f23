"""The class token's attention in vision layers before the observed one: a row per layer and view, no query and key."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vflowopt.errors import StrategyError
from vflowopt_hf.family import Family
from vflowopt_hf.feature_layer import layers_up_to
from vflowopt_hf.vision.capture import TorchAttention
from vflowopt_hf.vision.earlier_layers import LayerRecorder
from vflowopt_hf.vision.observing import attention_calls
from vflowopt_hf.vision.vision_call import VisionCall


@dataclass(frozen=True, eq=False)
class ClassRows:
    """What was captured of the layers before the observed one.

    Attributes:
        depth: vision layers up to the observed one, which is one of them.
        earlier: for each captured layer before it, in their order, and each view: float32 [patches].
    """

    depth: int
    earlier: tuple[tuple[Tensor, ...], ...]

    def views(self, rows: slice, patch_order: Tensor | None = None) -> "ClassRows":
        """Some of the views, patch i of which is now what was patch ``patch_order[i]``."""
        chosen = [layer[rows] for layer in self.earlier]
        if patch_order is not None:
            chosen = [tuple(row[patch_order.to(row.device)] for row in layer) for layer in chosen]
        return ClassRows(self.depth, tuple(chosen))

    def up_to(self, observed: Tensor, layers: int) -> Tensor:
        """The last layers, the observed one included: float32 [layers, views, patches] on its device.

        Args:
            observed: its own rows, float32 [views, patches].
            layers: how many.

        Raises:
            StrategyError: so many were not captured.
        """
        captured = 1 + len(self.earlier)
        if not 1 <= layers <= captured:
            raise StrategyError(
                f"class attention of {layers} vision layers is read, but {captured} of {self.depth} were captured; a "
                f"component tells how many it reads in class_attention_layers()"
            )
        earlier = self.earlier[captured - layers :]
        return torch.stack([*(torch.stack(layer).to(observed.device) for layer in earlier), observed])


class ClassRowCapture(LayerRecorder[Tensor]):
    """Keeps one row per view, float32 [patches]; query and key are not kept.

    Args:
        depth: vision layers up to the observed one.
        layers: how many of them are captured here.
        class_tokens: leading positions of a view that are no patches.
    """

    def __init__(self, depth: int, layers: int, class_tokens: int) -> None:
        super().__init__(range(layers))
        self.depth, self._class_tokens = depth, class_tokens

    def kept(self, call: VisionCall) -> Iterable[Tensor]:
        """See :meth:`vflowopt_hf.vision.earlier_layers.LayerRecorder.kept`."""
        return TorchAttention.of_calls([call], self._class_tokens).class_rows()


def vision_depth(family: Family, model: Any) -> int:
    """Vision layers up to the observed one, which is one of them."""
    return len(vision_layers(family, model))


def vision_layers(family: Family, model: Any) -> tuple[nn.Module, ...]:
    """Their attention modules, in order; the observed one is the last."""
    return layers_up_to(family.backbone(model), family.vision_attention(model))


@contextmanager
def capture_class_rows(family: Family, model: Any, layers: int | None = None) -> Iterator[ClassRowCapture]:
    """Observe so many vision layers before the observed one that they are ``layers`` with it, or all, inside the block.

    None are observed if the tower has no class token.

    Raises:
        UnsupportedModelError: an attention module has no config to select an attention function by.
    """
    stack = vision_layers(family, model)
    earlier: Sequence[nn.Module] = stack[0 if layers is None else max(0, len(stack) - layers) : -1]
    earlier = earlier if family.class_tokens_of(model) else ()
    capture = ClassRowCapture(len(stack), len(earlier), family.class_tokens_of(model))
    with ExitStack() as observers:
        for number, module in enumerate(earlier):
            observers.enter_context(attention_calls(module, partial(capture.note, number)))
        yield capture
