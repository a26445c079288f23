"""vLLM's worker: encode images, prune them, and put what is left in its place."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vflowopt.strategies.strategy import components_of
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.known import KnownPrefills
from vflowopt_vllm.architectures import BY_UPSTREAM
from vflowopt_vllm.observing import Observer
from vflowopt_vllm.places import COLUMNS, PlacedImage, Places, corrected, prompt_positions
from vflowopt_vllm.planning import EncodedImages
from vflowopt_vllm.request import class_tokens, strategy_in

BYTES = PixelStatistics(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
"""Of pixels that are not normalised: some of vLLM's towers take bytes and normalise them on the device."""


class PrunedModel:
    """Mixin before a multimodal model of vLLM, which thereby supports multimodal pruning and rotary axes, for images.

    Subclasses say where things are in the model; an image is what the family's units say.
    """

    supports_multimodal_pruning: ClassVar[bool] = True
    supports_mrope: ClassVar[bool] = True
    # A rank would see a part of the batch; and the tower's tokens would be counted by those that are retained.
    supports_encoder_tp_data: ClassVar[bool] = False
    supports_tower_connector_lora: ClassVar[bool] = False

    upstream: ClassVar[str]
    """vLLM's name of the architecture."""

    config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        model = vllm_config.model_config
        self._strategy, self._known = strategy_in(self.config), KnownPrefills()
        self._family: Family = BY_UPSTREAM[self.upstream].family()
        self._normalised = _statistics(model.hf_image_processor_config or {}, self._family)
        self._at_once = int(vllm_config.scheduler_config.max_num_batched_tokens)
        values = any("values" in component.needs for component in components_of(self._strategy))
        self._observer = Observer(self.observed(), class_tokens(self._family, self.config), values=values)

    @abstractmethod
    def observed(self) -> nn.Module:
        """The ``MMEncoderAttention`` of the layer that the family observes."""

    @abstractmethod
    def units(self, images: Mapping[str, Any]) -> Sequence[Unit]:
        """The images of a batch, in order.

        Args:
            images: as :meth:`embed_multimodal` gets them.
        """

    @abstractmethod
    def some(self, images: Mapping[str, Any], which: slice) -> dict[str, Any]:
        """Some of the images of a batch, in the same form."""

    @abstractmethod
    def places(self, image: Unit) -> Tensor:
        """Where each token of an image stands, relative to the image's first: int64 [N, 3], one per rotary axis."""

    @abstractmethod
    def extent(self, image: Mapping[str, Any]) -> int:
        """Positions that an image of a prompt takes up.

        Args:
            image: what vLLM's processor made of it.
        """

    @property
    def columns(self) -> int:
        """Of an embedding as the tower makes it: what enters the first decoder layer, then what deeper ones add."""
        return self._features

    @property
    def _features(self) -> int:
        return int(self.config.get_text_config().hidden_size)

    # -- what vLLM calls

    def embed_multimodal(self, **kwargs: Any) -> tuple[Tensor, ...]:
        """Encode images: of each [retained, features + 8], the places of its tokens in the last columns."""
        images = {name: value for name, value in kwargs.items() if value is not None}
        if "pixel_values" not in images:
            return ()
        units = self.units(images)
        # vLLM's scheduler counts retained tokens, and so sends more images at once than the tower can hold.
        parts = [*sub_batches([unit.layout.tokens for unit in units], self._at_once)]
        if len(parts) == 1:
            return tuple(self._encoded(images, units))
        batches = (self.some(images, which) for which in parts)
        return tuple(states for batch in batches for states in self._encoded(batch, self.units(batch)))

    def _encoded(self, images: Mapping[str, Any], units: Sequence[Unit]) -> Iterator[Tensor]:
        self._observer.open()
        encoded = EncodedImages(super().embed_multimodal(**images), self._known)  # type: ignore[misc]
        attention = self._observer.close(units)
        pixels = images["pixel_values"]
        first = pixels if isinstance(pixels, Tensor) else pixels[0]
        statistics = BYTES if first.dtype == torch.uint8 else self._normalised
        plans = encoded.plans(self._strategy, units, attention, self._features, statistics)
        for states, plan, unit in zip(encoded.retained(plans), plans, units, strict=True):
            columns = Places.of_image(self.places(unit)).as_columns().to(states.device, non_blocking=True)
            yield torch.cat([states, columns.index_select(0, plan.kept[0]).to(states.dtype)], dim=1)

    def get_mrope_input_positions(self, input_tokens: Sequence[int], mm_features: Sequence[Any]) -> tuple[Tensor, int]:
        """See :func:`vflowopt_vllm.places.prompt_positions`."""
        images = (
            PlacedImage(place.offset + _first(place), place.get_num_embeds(), self.extent(feature.data))
            for feature in mm_features
            for place in (feature.mm_position,)
        )
        return prompt_positions(len(input_tokens), images)

    def recompute_mrope_positions(
        self,
        input_ids: Any,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[list[Tensor], Tensor, int]:
        """See :func:`vflowopt_vllm.places.corrected`; the embeddings come back without places."""
        width = self.columns
        columns = [states[:, width:] for states in multimodal_embeddings]
        places = Places.from_columns(torch.cat(columns) if columns else torch.zeros(0, COLUMNS))
        images = torch.as_tensor(input_ids, device=mrope_positions.device) == self.config.image_token_id
        positions, delta = corrected(mrope_positions, images, num_computed_tokens, places)
        return [states[:, :width] for states in multimodal_embeddings], positions, delta


def _first(place: Any) -> int:
    """Markers before the first token of an image that stands in a prompt."""
    return 0 if place.is_embed is None else int(place.is_embed.int().argmax())


def sub_batches(tokens: Sequence[int], at_once: int) -> Iterator[slice]:
    """Neighbouring images that are encoded together: as many as have so many tokens before pruning, at least one."""
    start = total = 0
    for number, own in enumerate(tokens):
        if number > start and total + own > at_once:
            yield slice(start, number)
            start, total = number, 0
        total += own
    yield slice(start, len(tokens))


def _statistics(image_processor: Mapping[str, Any], family: Family) -> PixelStatistics:
    """Of the checkpoint's image processor, or what the family's processors usually have."""
    mean, std = image_processor.get("image_mean"), image_processor.get("image_std")
    if mean is None or std is None:
        return family.pixel_statistics
    return PixelStatistics(tuple(map(float, mean)), tuple(map(float, std)))
