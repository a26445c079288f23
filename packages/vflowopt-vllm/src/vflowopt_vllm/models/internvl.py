"""InternVL, in transformers' own format: crops of one size, each token merged of several patches by a pixel shuffle."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, ClassVar

from torch import Tensor, nn
from vllm.model_executor.models import interns1 as vllm_models
from vllm.multimodal import MULTIMODAL_REGISTRY

from vflowopt_hf.families.crops import crop_units
from vflowopt_hf.family import Unit
from vflowopt_hf.feature_layer import last_used_layer
from vflowopt_hf.vision.unit_joining import join
from vflowopt_vllm.models.one_axis import OneAxis
from vflowopt_vllm.processing import ImagesOnly, ShorterPrompts

CROPS = "image_num_patches"
"""What vLLM calls the number of crops of each image."""


class Info(ImagesOnly, vllm_models.InternS1ProcessingInfo):
    """Images only."""


class Processor(ShorterPrompts, vllm_models.InternS1MultiModalProcessor):
    """Shorter prompts."""


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=vllm_models.InternS1DummyInputsBuilder)
class PrunedInternVL(OneAxis, vllm_models.InternS1ForConditionalGeneration):
    """See the module's docstring."""

    upstream: ClassVar[str] = "InternVLForConditionalGeneration"

    def observed(self) -> nn.Module:
        """Attention of the tower layer that the projector uses."""
        layers = self.vision_tower.encoder.layer
        attention: nn.Module = last_used_layer(layers, self.config.vision_feature_layer).attention.attn
        return attention

    def units(self, images: Mapping[str, Any]) -> Sequence[Unit]:
        """See :meth:`PrunedModel.units`: the crops of an image together."""
        patch = int(self.config.vision_config.patch_size[0])
        crops = list(crop_units(images["pixel_values"], patch, partial(_shuffled, self)))
        return [join(crops[start:end]) for start, end in pairwise(_ends(images[CROPS]))]

    def some(self, images: Mapping[str, Any], which: slice) -> dict[str, Any]:
        """See :meth:`PrunedModel.some`."""
        crops = images[CROPS]
        ends = _ends(crops)
        start, stop, _ = which.indices(len(crops))
        return {**images, "pixel_values": images["pixel_values"][ends[start] : ends[stop]], CROPS: crops[which]}

    def extent(self, image: Mapping[str, Any]) -> int:
        """See :meth:`PrunedModel.extent`."""
        return int(image[CROPS].data) * int(self.num_image_token)


def _ends(crops: Tensor) -> list[int]:
    """Where each image's crops end among all, from 0 on, by how many each has."""
    return [0, *accumulate(crops.flatten().tolist())]


def _shuffled(model: Any, patch_map: Tensor) -> Tensor:
    """The patches of each token of one crop, [1, patches] -> [N, members], by vLLM's own pixel shuffle."""
    side = round(patch_map.shape[1] ** 0.5)
    square = patch_map.reshape(1, side, side, 1)
    shuffled: Tensor = model.pixel_shuffle(square, scale_factor=model.config.downsample_ratio)
    return shuffled.flatten(0, 2)
