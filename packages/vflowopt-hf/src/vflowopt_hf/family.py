"""What differs from one model family to the next, and nothing else: the whole contract of an adapter.

A family says where the text decoder and the vision attention are, which prompt tokens are visual, and how a map over
patches becomes a map over visual tokens. Everything else is generic.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from vflowopt import TokenLayout
from vflowopt.benchmark import BenchShape
from vflowopt_hf.pixels import PixelStatistics


@dataclass(frozen=True, eq=False)
class Unit:
    """One image (all its crops) or one video (all its frames), as the vision tower sees it.

    Attributes:
        views: rows of the vision tower's batch that belong to this unit.
        layout: places of the unit's visual tokens.
        to_tokens: takes a float32 patch map [views, patches] through the transformation of the features: [N].
        entropy: patch entropy float32 [views, patches] in nats, given the pixel statistics to invert.
    """

    views: slice
    layout: TokenLayout
    to_tokens: Callable[[Tensor], Tensor]
    entropy: Callable[[PixelStatistics], Tensor]


class Family(ABC):
    """A model family of transformers. Stateless: one instance serves all models."""

    name: ClassVar[str]
    """Shown to users, for example ``"llava-onevision"``."""

    pixel_statistics: ClassVar[PixelStatistics]
    """Mean and standard deviation that the family's processors usually normalise with."""

    class_tokens: ClassVar[int] = 0
    """Leading positions of the vision sequence that are no patches."""

    @abstractmethod
    def backbone(self, model: Any) -> nn.Module:
        """The multimodal module whose forward takes token ids and pixels and calls vision tower and decoder."""

    @abstractmethod
    def decoder(self, model: Any) -> nn.Module:
        """The text decoder: has ``layers`` and ends in a norm."""

    @abstractmethod
    def vision_attention(self, model: Any) -> nn.Module:
        """The attention module to observe: the last one whose output the projector uses."""

    @abstractmethod
    def placeholder_ids(self, model: Any) -> Mapping[str, int]:
        """Token id of the placeholders of each modality ("image", "video") that the family has."""

    @abstractmethod
    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """Units that one call of the backbone's ``get_<modality>_features(**arguments)`` encodes, in feature order."""

    def shapes(self) -> Sequence[BenchShape]:
        """Models with random weights of this family whose speed is worth measuring."""
        return ()

    def answer_prompt(self, processor: Any, images: int, prompt: str) -> str:
        """The text to give to the processor for a question about ``images`` images."""
        content: list[dict[str, str]] = [{"type": "image"}] * images + [{"type": "text", "text": prompt}]
        conversation = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(conversation, add_generation_prompt=True))
