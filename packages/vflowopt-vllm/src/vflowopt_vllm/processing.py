"""vLLM's front end: a prompt gets as many placeholders per image as tokens will be left of it.

vLLM fixes these numbers before the vision tower runs. They follow from the size of an image alone, so scheduler, KV
cache and encoder cache see a shorter prompt from the beginning.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vllm.multimodal.processing import PromptUpdateDetails

from vflowopt.errors import InputError
from vflowopt_vllm.places import LIMIT
from vflowopt_vllm.request import fingerprint, retained


@dataclass
class ShortenedPlaceholders(PromptUpdateDetails):
    """The placeholders of one image.

    Attributes:
        extent: positions that the image takes up.
    """

    extent: int = 0


class ImagesOnly:
    """Mixin before a ``ProcessingInfo`` of vLLM: the model takes images and nothing else, and prunes them."""

    get_hf_config: Callable[[], Any]

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int] | None:
        """What is left of the largest image; ``None`` if vLLM is to try it out."""
        most: Mapping[str, int] | None = super().get_mm_max_tokens_per_item(seq_len, mm_counts)  # type: ignore[misc]
        return None if most is None else {"image": retained(self.get_hf_config(), most["image"])}

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """How many items of each modality a prompt may have."""
        limits: Mapping[str, int | None] = super().get_supported_mm_limits()  # type: ignore[misc]
        return {modality: limit if modality == "image" else 0 for modality, limit in limits.items()}


class ShorterPrompts:
    """Mixin before a ``BaseMultiModalProcessor`` of vLLM."""

    info: Any

    def extent(self, image: Any, tokens: int) -> int:  # noqa: ARG002
        """Positions that an image takes up in the unpruned prompt; by default one per token.

        Args:
            image: what vLLM's processor made of it.
            tokens: of the unpruned image.
        """
        return tokens

    def _get_prompt_updates(self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any) -> Sequence[Any]:
        updates = super()._get_prompt_updates(mm_items, hf_processor_mm_kwargs, out_mm_kwargs)  # type: ignore[misc]
        return [self._shortened(update, out_mm_kwargs) for update in updates]

    def _shortened(self, update: Any, out_mm_kwargs: Any) -> Any:
        original, config = update.replacement, self.info.get_hf_config()

        def replacement(item: int) -> ShortenedPlaceholders:
            full = original(item) if callable(original) else original
            details = full if isinstance(full, PromptUpdateDetails) else PromptUpdateDetails.from_seq(list(full))
            numbers = _numbers(details)
            tokens = max(numbers)
            extent = self.extent(out_mm_kwargs["image"][item], tokens)
            if extent > LIMIT:
                raise InputError(
                    f"image {item} takes up {extent} positions, and vflowopt-vllm tells {LIMIT} apart: make it smaller"
                )
            left = retained(config, tokens)
            shorter = [token for token, number in zip(details.full, numbers, strict=True) if number <= left]
            return ShortenedPlaceholders(shorter, is_embed=details.is_embed, extent=extent)

        return replace(update, replacement=replacement)

    def _get_mm_hashes(self, inputs: Any) -> dict[str, list[str]]:
        """Also tells strategies apart: encoded images and KV blocks may be stored outside of the engine."""
        hashes = super()._get_mm_hashes(inputs)  # type: ignore[misc]
        own = fingerprint(self.info.get_hf_config())
        return {modality: [f"{one}-{own}" for one in ones] for modality, ones in hashes.items()}

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> tuple[list[int], Any]:
        prompt, placeholders = super()._maybe_apply_prompt_updates(mm_items, mm_res)  # type: ignore[misc]
        extents = [
            update.content.extent for updates in mm_res.prompt_updates.get("image", []) for update in updates[:1]
        ]
        check_prompt(self.info.get_hf_config(), prompt, placeholders.get("image", []), extents)
        return prompt, placeholders


def _numbers(details: PromptUpdateDetails) -> list[int]:
    """Of each placeholder which of the image's tokens it stands for, from 1 on; 0 for markers around them."""
    if details.is_embed is None:
        return list(range(1, len(details.full) + 1))
    of_image = details.is_embed(details.full)
    numbers: list[int] = (of_image.cumsum(0) * of_image).tolist()
    return numbers


def check_prompt(config: Any, prompt: Sequence[int], placeholders: Sequence[Any], extents: Sequence[int]) -> None:
    """Check that the places of all visual tokens can be told in a pruned prompt.

    Args:
        config: of the model.
        prompt: its token ids.
        placeholders: where its images are.
        extents: positions that each image takes up.

    Raises:
        InputError: the prompt has placeholders that belong to no image, or is longer than the model has positions for.
    """
    if not placeholders:
        return
    count = prompt.count(config.image_token_id)
    of_images = sum(one.tokens.count(config.image_token_id) for one in placeholders)
    if count != of_images:
        raise InputError(
            f"the prompt's text has {count - of_images} more image placeholders than images belong to it; take the "
            f"placeholder out of the text"
        )
    positions = len(prompt) - of_images + sum(extents)
    available = int(config.get_text_config().max_position_embeddings)
    if positions > available:
        raise InputError(
            f"the unpruned prompt takes up {positions} positions, which retained tokens keep, and the model has "
            f"{available}; send fewer or smaller images"
        )
