"""What differs from one model family to the next, and nothing else: the whole contract of an adapter.

A family says where the text decoder and the vision attention are, which prompt tokens are visual, and how a map over
patches becomes a map over visual tokens. Everything else is generic.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vflowopt import Strategy, TokenLayout
from vflowopt.arrays import HostInts
from vflowopt.benchmark import BenchShape
from vflowopt.strategies.defaults import general_strategy
from vflowopt_hf.pixels import PixelStatistics


@dataclass(frozen=True, eq=False)
class Unit:
    """One image (all its crops) or one video (all its frames), as the vision tower sees it.

    Attributes:
        views: rows of the vision tower's batch that belong to this unit.
        layout: places of the unit's visual tokens.
        to_tokens: takes a float32 patch map [views, patches] through the transformation of the features: [N].
        entropy: patch entropy float32 [views, patches] in nats, given the pixel statistics to invert.
        patch_order: int64 [patches], for towers that reorder the patches of a view before they attend: where each patch
            stands in the tower's sequence, not counting class tokens. All patch maps, attention included, are in the
            order of the pixel inputs.
        real_patches: for towers that pad every view at its end to one length: how many of a view's patches are none of
            that padding.
        packed_patches: for towers that put all views one after another into one sequence: how many patches a view has,
            so that nobody waits for the device to read it from there.
    """

    views: slice
    layout: TokenLayout
    to_tokens: Callable[[Tensor], Tensor]
    entropy: Callable[[PixelStatistics], Tensor]
    patch_order: Tensor | None = None
    real_patches: int | None = None
    packed_patches: int | None = None

    @property
    def places(self) -> Tensor | None:
        """Where each patch stands in the tower's sequence, int64 [patches]; ``None`` if all stand as in the inputs."""
        if self.patch_order is None and self.real_patches is not None:
            return torch.arange(self.real_patches)
        return self.patch_order


@dataclass(frozen=True, eq=False)
class LayerResiduals:
    """What one forward of a decoder adds to hidden states of visual tokens after its first layers.

    Some decoders see an image at several depths (DeepStack, arXiv 2406.04334): the last features of the vision tower
    are the visual tokens' embeddings, and earlier features are added to the hidden states of the same tokens.

    Attributes:
        rows: bool [batch, queries], the tokens that are added to.
        values: one [tokens, features] per decoder layer, from the first layer on; tokens in the order of ``rows``.
    """

    rows: Tensor
    values: Sequence[Tensor]


class Family(ABC):
    """A model family of transformers. Stateless: one instance serves all models."""

    name: ClassVar[str]
    """Shown to users, for example ``"llava-onevision"``."""

    pixel_statistics: ClassVar[PixelStatistics]
    """Mean and standard deviation that the family's processors usually normalise with."""

    repeats_placeholders: ClassVar[bool] = False
    """Whether upstream's processor does nothing to a prompt with images but repeat each placeholder, once per visual
    token; only then can images be asked about without that processor."""

    class_tokens: ClassVar[int] = 0
    """Leading positions of the vision sequence that are no patches; the first of them is the class token."""

    def class_tokens_of(self, model: Any) -> int:  # noqa: ARG002
        """How many a model has, for families whose towers differ; by default :attr:`class_tokens`."""
        return self.class_tokens

    host_arguments: ClassVar[frozenset[str]] = frozenset()
    """Tensors among the arguments of upstream's encoders that it reads as Python numbers, or hands on to the tower.
    They are brought to the host before the tower runs, as reading them after it would wait for it; the tower gets them
    as they came."""

    def backbone(self, model: Any) -> nn.Module:
        """The multimodal module whose forward takes token ids and pixels and calls vision tower and decoder.

        By default ``model.model``, transformers' usual name.
        """
        backbone: nn.Module = model.model
        return backbone

    def decoder(self, model: Any) -> nn.Module:
        """The text decoder: has ``layers`` and ends in a norm.

        By default ``model.model.language_model``, transformers' usual name.
        """
        decoder: nn.Module = model.model.language_model
        return decoder

    @abstractmethod
    def vision_attention(self, model: Any) -> nn.Module:
        """The attention module to observe: the last one whose output the projector uses."""

    def resampler(self, model: Any) -> nn.Module | None:  # noqa: ARG002
        """The attention module through which visual tokens ask for patches, where none stands for patches of its own.

        Its keys begin with the patches of a view, and ``Unit.to_tokens`` takes a map [views, queries] over what it
        makes of them. By default there is none.
        """
        return None

    def placeholder_ids(self, model: Any) -> Mapping[str, int]:
        """Token id of the placeholders of each modality ("image", "video") that the family has.

        By default ``image_token_id`` and, where there is one, ``video_token_id`` of the model's configuration.
        """
        config = model.config
        ids = {"image": config.image_token_id, "video": getattr(config, "video_token_id", None)}
        return {modality: token for modality, token in ids.items() if token is not None}

    @abstractmethod
    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """Units that one call of the backbone's ``get_<modality>_features(**arguments)`` encodes, in feature order.

        Where the arguments do not tell which crops make an image, parts of units, which :meth:`tokens_per_unit` joins.
        """

    def without_waits(self, backbone: Any) -> Mapping[str, Callable[..., Any]]:  # noqa: ARG002
        """Methods of a backbone that do the same as upstream's of these names, and do not wait for the device.

        They take their place while the model is observed. By default there is none.
        """
        return {}

    def tokens_per_unit(self, model: Any, modality: str, ids: HostInts) -> Sequence[int] | None:  # noqa: ARG002
        """How many placeholders of a prompt belong to each unit, for families whose units only the prompt tells.

        Args:
            model: the model.
            modality: "image" or "video".
            ids: int64 [queries], token ids of one sample.

        Returns:
            A number for each image or video of the prompt, in its order; each is filled by one or more of what
            :meth:`units` gives, joined (:func:`vflowopt_hf.vision.unit_joining.join`). By default ``None``: nothing is
            joined.
        """
        return None

    def take_residuals(self, arguments: dict[str, Any]) -> LayerResiduals | None:  # noqa: ARG002
        """Take what the decoder adds to visual tokens after its first layers out of its keyword arguments.

        Called on a copy of the arguments when tokens are pruned. Without them the decoder must add nothing; the runtime
        adds the retained tokens' part in its place. By default there is nothing to take.
        """
        return None

    def default_strategy(self, budget: float, num_layers: int) -> Strategy:
        """The best known strategy at an average retention in (0, 1]: what a budget alone means.

        By default the general one (:func:`vflowopt.strategies.defaults.general_strategy`).
        """
        return general_strategy(budget, num_layers)

    def shapes(self) -> Sequence[BenchShape]:
        """Models with random weights of this family whose speed is worth measuring."""
        return ()

    def answer_prompt(self, processor: Any, images: int, prompt: str, videos: int = 0) -> str:
        """The text to give to the processor for a question about so many images, followed by so many videos."""
        media = [{"type": "image"}] * images + [{"type": "video"}] * videos
        content: list[dict[str, str]] = [*media, {"type": "text", "text": prompt}]
        conversation = [{"role": "user", "content": content}]
        return str(processor.apply_chat_template(conversation, add_generation_prompt=True))


def statistics_of(family: Family, processor: Any) -> PixelStatistics:
    """The processor's pixel statistics, or the family's usual ones without a processor.

    Raises:
        InputError: see :meth:`vflowopt_hf.pixels.PixelStatistics.of`.
    """
    return family.pixel_statistics if processor is None else PixelStatistics.of(processor)
