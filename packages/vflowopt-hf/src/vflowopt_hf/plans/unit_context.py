"""What a scorer sees of one image or video before the LLM."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from vflowopt import TokenLayout
from vflowopt.arrays import asarray_like
from vflowopt.components.greedy import choose_greedily
from vflowopt.errors import StrategyError
from vflowopt_hf.family import Unit
from vflowopt_hf.kernels.fusing import fused_order
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.entering import EnteringRows
from vflowopt_hf.vision.capture import NOT_CAPTURED, TorchAttention
from vflowopt_hf.vision.class_rows import ClassRows


@dataclass(frozen=True, eq=False)
class UnitContext:
    """A :class:`vflowopt.components.ScoringContext` over one encoded unit.

    Attributes:
        unit: what was encoded.
        attention: the observed attention over the unit's views.
        class_rows: class attention of layers before the observed one, over the same views.
        layers: attention of such layers that were asked for, by number, over the same views.
        statistics: pixel normalisation to invert for patch entropy.
        entering: its share of what enters the decoder.
    """

    unit: Unit
    attention: TorchAttention
    class_rows: ClassRows
    layers: Mapping[int, TorchAttention]
    statistics: PixelStatistics
    entering: EnteringRows

    @property
    def layout(self) -> TokenLayout:
        """Places of the unit's visual tokens."""
        return self.unit.layout

    @cached_property  # a search scores the same units again and again
    def entropy(self) -> Tensor:
        """Patch entropy, float32 [views, patches]."""
        return self.unit.entropy(self.statistics)

    @property
    def class_attention(self) -> Tensor:
        """Attention of the class token to the patches, float32 [views, patches]."""
        return self.attention.of_class_token

    @property
    def saliency(self) -> Tensor:
        """Attention of the class token, or the mean received from all patches: float32 [views, patches]."""
        if self.attention.has_class_token:
            return self.class_attention
        received = self.attention.received()
        return received / received.shape[-1]

    @property
    def vision_depth(self) -> int:
        """Vision layers up to the observed one."""
        return self.class_rows.depth

    def class_attentions(self, layers: int) -> Tensor:
        """Attention of the class token in the last layers up to the observed one, float32 [layers, views, patches]."""
        return self.class_rows.up_to(self.class_attention, layers)

    def layer_attention(self, layer: int) -> TorchAttention:
        """Attention of a vision layer, numbered from 0.

        Raises:
            StrategyError: it was not captured.
        """
        if layer == self.vision_depth - 1:
            return self.attention
        if layer not in self.layers:
            raise StrategyError(f"attention of vision layer {layer} of {self.vision_depth} is read, but {NOT_CAPTURED}")
        return self.layers[layer]

    @property
    def keys(self) -> Tensor:
        """Keys of the patches, mean over heads: float32 [views, patches, head_dim]."""
        return torch.stack([view.float().mean(dim=0) for view in self.attention.keys])

    @property
    def values(self) -> Tensor:
        """Values of the patches, heads side by side: float32 [views, patches, heads * head_dim]."""
        return torch.stack([view.float().transpose(0, 1).flatten(1) for view in self.attention.values])

    @property
    def features(self) -> Tensor:
        """Embeddings of the visual tokens as they enter the decoder, float32 [N, features]."""
        return self.entering.own.to(self.attention.device, torch.float32)

    @property
    def text(self) -> Tensor:
        """Embeddings of the prompt's text after the unit, float32 [texts, features]."""
        return self.entering.text.to(self.attention.device, torch.float32)

    def fresh(self) -> "UnitContext":
        """The same unit with nothing computed yet, to measure what scoring costs."""
        return replace(self, attention=self.attention.fresh())

    def without_pixels(self) -> "UnitContext":
        """The same unit with its entropy computed and its pixels forgotten."""
        entropy = self.entropy
        return replace(self, unit=replace(self.unit, entropy=lambda _: entropy))

    def place(self, host: npt.NDArray[Any]) -> Tensor:
        """A host array as a tensor where the attention is; its copy is not waited for."""
        placed: Tensor = asarray_like(host, torch.empty(0, device=self.attention.device))
        return placed

    def to_tokens(self, patch_map: Tensor) -> Tensor:
        """float32 [N] from [views, patches]."""
        return self.unit.to_tokens(patch_map.float())

    def choose_greedily(
        self, first: Tensor, distance: Tensor, steps: int, worth: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """In one launch where that is possible."""
        fused = fused_order(distance.device, len(distance))
        if fused is None:
            return choose_greedily(first, distance, steps, worth)
        chosen, score = fused(first[None], distance[None], steps, None if worth is None else worth[None])
        return chosen[0], score[0]
