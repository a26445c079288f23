"""LLaVA-NeXT: CLIP tower, every image in anyres crops, Vicuna, Mistral or other decoder; images, several images.

Geometry is upstream's own: maps go through the model's ``pack_image_features`` with one channel instead of the
features' many, so they line up with the features by construction. Nothing is interpolated.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from vflowopt.benchmark import BenchShape
from vflowopt_hf.families.anyres import image_units, one_map, packing_without_waits
from vflowopt_hf.families.llava import Llava
from vflowopt_hf.family import Unit


class LlavaNext(Llava):
    """See the module's docstring."""

    name: ClassVar[str] = "llava-next"
    host_arguments: ClassVar[frozenset[str]] = frozenset({"image_sizes"})

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:  # noqa: ARG002
        """One unit per image; every image is tiled, however many a prompt holds."""
        pixels, sizes = arguments["pixel_values"], arguments["image_sizes"]
        return list(image_units(model.config, pixels, sizes, [True] * len(sizes), partial(_pack, model)))

    def without_waits(self, backbone: Any) -> Mapping[str, Callable[..., Any]]:
        """Packing that does not copy lengths to the device."""
        return packing_without_waits(backbone)

    def shapes(self) -> Sequence[BenchShape]:
        """``llava-next-7b`` and ``llava-next-mistral-7b``; successors inherit none."""
        from vflowopt_hf.families.shapes.llava_next import next_shapes

        return next_shapes(self) if type(self) is LlavaNext else ()


def _pack(model: Any, size: tuple[int, int], patch_map: Tensor) -> Tensor:
    """[views, patches] -> [N]; row separators get 0."""
    newline = torch.zeros(1, dtype=patch_map.dtype, device=patch_map.device)
    packed, _ = model.model.pack_image_features(
        one_map(patch_map),
        [size],
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        image_newline=newline,
    )
    tokens: Tensor = packed[0][:, 0]
    return tokens
