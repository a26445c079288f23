"""Idefics3 and SmolVLM: SigLIP-like tower, pixel shuffle, Llama decoder; images in crops of a common size.

An image is split into crops, the whole image last, and the prompt names each crop before its placeholders: by row and
column, or as the global one. Upstream's inputs are the crops of a sample in one row; which of them make an image, and
so a unit, is told by the prompt alone, where every image ends with its global crop. Crops are token grids of their
own. The names and separators between the crops are text, and always retained. Video frames (SmolVLM) reach the model
as images of one crop after a time in words, so every frame is a unit.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from vflowopt.arrays import HostInts
from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.families.crops import crop_units, lengths_by_name
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics


class Idefics3(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "idefics3"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def decoder(self, model: Any) -> nn.Module:
        """The text decoder."""
        decoder: nn.Module = model.model.text_model
        return decoder

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer."""
        attention: nn.Module = model.model.vision_model.encoder.layers[-1].self_attn
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One per crop that is no padding; parts of an image.

        Raises:
            UnsupportedOperationError: ``pixel_attention_mask`` hides patches of a crop.
        """
        pixels, mask = arguments["pixel_values"].flatten(0, 1), arguments.get("pixel_attention_mask")
        real = self.real_crops(pixels)
        patch = int(model.config.vision_config.patch_size)
        if mask is not None and not _patches(mask.flatten(0, 1)[real], patch).any(dim=-1).all():
            raise UnsupportedOperationError(
                "pixel_attention_mask hides patches of a crop, so its attention is not that over all patches; resize "
                "images to whole crops, as the image processor does with do_resize or do_image_splitting"
            )
        return list(crop_units(pixels[real], patch, partial(_shuffle, model)))

    def real_crops(self, pixels: Tensor) -> Tensor:
        """Crops that upstream encodes, bool [crops]: those that are not 0 throughout, which is padding."""
        return (pixels != 0).flatten(1).any(dim=1)

    def tokens_per_unit(self, model: Any, modality: str, ids: HostInts) -> Sequence[int] | None:  # noqa: ARG002
        """An image reaches to its global crop."""
        return lengths_by_name(ids, model.config.image_token_id)


class SmolVLM(Idefics3):
    """See the module's docstring."""

    name: ClassVar[str] = "smolvlm"

    def real_crops(self, pixels: Tensor) -> Tensor:
        """As in Idefics3, but one crop is encoded at least."""
        real = super().real_crops(pixels)
        real[:1] |= ~real.any()
        return real


def _patches(mask: Tensor, patch: int) -> Tensor:
    """[crops, height, width] -> bool [crops, rows, columns, pixels of a patch]."""
    return mask.bool().unfold(1, patch, patch).unfold(2, patch, patch).flatten(-2)


def _shuffle(model: Any, patch_map: Tensor) -> Tensor:
    """[1, patches] -> [N, members]."""
    shuffled: Tensor = model.model.connector.pixel_shuffle(patch_map[..., None], model.config.scale_factor)
    return shuffled[0]
