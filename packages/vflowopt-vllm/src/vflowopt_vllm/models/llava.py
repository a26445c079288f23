"""What LLaVA-NeXT and LLaVA-OneVision share: anyres crops."""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vflowopt_hf.families.anyres import image_units, patches_per_side, views_of
from vflowopt_hf.family import Unit
from vflowopt_vllm.models.one_axis import OneAxis


class PrunedLlava(OneAxis):
    """Mixin before any of vLLM's LLaVA models with anyres crops."""

    merge: ClassVar[Callable[..., Tensor]]
    """vLLM's packing of one image's features, a method of its model."""

    vision_tower: Any

    def observed(self) -> nn.Module:
        """Attention of the last tower layer, which is the last one that the projector uses: vLLM builds no others."""
        attention: nn.Module = self.vision_tower.vision_model.encoder.layers[-1].self_attn.attn
        return attention

    def units(self, images: Mapping[str, Any]) -> Sequence[Unit]:
        """See :meth:`PrunedModel.units`; vLLM cuts every image into crops, however many a prompt holds."""
        pixels, sizes = images["pixel_values"], images["image_sizes"]
        flat = pixels.flatten(0, 1) if isinstance(pixels, Tensor) else torch.cat(list(pixels))
        return list(image_units(self.config, flat, sizes, [True] * len(sizes), self.packed))

    def some(self, images: Mapping[str, Any], which: slice) -> dict[str, Any]:
        """See :meth:`PrunedModel.some`."""
        return {name: images[name][which] for name in ("pixel_values", "image_sizes")}

    def extent(self, image: Mapping[str, Any]) -> int:
        """See :meth:`PrunedModel.extent`; of an image in the prefix cache vLLM drops the pixels."""
        height, width = image["image_sizes"].data.tolist()
        empty = torch.zeros(views_of((height, width), self.config), patches_per_side(self.config) ** 2)
        return len(self.packed((height, width), empty))

    def packed(self, size: tuple[int, int], patch_map: Tensor) -> Tensor:
        """A map in place of features, packed as these are: [views, patches] -> [N]; row separators get 0.

        Upstream takes the separator's features from the model, and so gets something with one channel in its place.
        """
        newline = torch.zeros(1, dtype=patch_map.dtype, device=patch_map.device)
        stand_in = SimpleNamespace(config=self.config, image_newline=newline)
        merge = type(self).merge
        return merge(stand_in, torch.tensor(size), patch_map[..., None], strategy="spatial_unpad")[:, 0]
