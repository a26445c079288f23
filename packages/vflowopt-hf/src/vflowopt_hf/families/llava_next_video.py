"""LLaVA-NeXT-Video: LLaVA-NeXT with videos, whose frames are pooled; images, several images, video.

Upstream pools each frame's patches in squares of ``spatial_pool_stride`` and leaves the rest at the margin out; no
separators stand between frames. A patch map is averaged over the same squares whatever ``spatial_pool_mode`` is: the
maximum is one per channel and a convolution mixes channels, so neither says which patch a token stands for.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vflowopt import TokenLayout
from vflowopt_hf.families.anyres import patches_per_side
from vflowopt_hf.families.llava_next import LlavaNext
from vflowopt_hf.family import Unit
from vflowopt_hf.pixels import image_entropy


class LlavaNextVideo(LlavaNext):
    """See the module's docstring."""

    name: ClassVar[str] = "llava-next-video"

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """One unit per image, which is tiled, or per video."""
        if modality == "video":
            return list(_videos(model.config, arguments["pixel_values_videos"]))
        return super().units(model, modality, arguments)


def _videos(config: Any, videos: Tensor) -> Iterator[Unit]:
    frames, side, stride = videos.shape[1], patches_per_side(config), int(config.spatial_pool_stride)
    # Frame by frame, row-major over the pooled grid.
    position = np.indices((frames, side // stride, side // stride)).reshape(3, -1).T
    for index, video in enumerate(videos):
        yield Unit(
            views=slice(index * frames, (index + 1) * frames),
            layout=TokenLayout(position),
            to_tokens=partial(_pool, side, stride),
            entropy=partial(image_entropy, video, config.vision_config.patch_size),
        )


def _pool(side: int, stride: int, patch_map: Tensor) -> Tensor:
    """[frames, patches] -> [N], the mean over the patches of each token."""
    return avg_pool2d(patch_map.reshape(-1, 1, side, side), stride).flatten()
