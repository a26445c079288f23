"""Nemotron-H Omni: RADIO tower, 2 x 2 pixel shuffle, decoder of Mamba 2, attention, MLP and expert layers; images.

Each decoder layer is one of the four. Pixels arrive as flat patches row by row; class tokens and registers stand before
those of each image. Audio tokens count as text, and so do videos' that come as frames; upstream's own videos have the
placeholders of images, so that nothing tells them apart: they are refused.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from torch import nn

from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.families.flat_patches import flat_entropy
from vflowopt_hf.families.merged_patches import merge_rows, merged_layout
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics


class NemotronHOmni(Family):
    """See the module's docstring."""

    name: ClassVar[str] = "nemotron-h"
    pixel_statistics: ClassVar[PixelStatistics] = PixelStatistics(
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )

    def backbone(self, model: Any) -> nn.Module:
        """The model, which has the towers itself."""
        backbone: nn.Module = model
        return backbone

    def decoder(self, model: Any) -> nn.Module:
        """The text decoder."""
        decoder: nn.Module = model.language_model.model
        return decoder

    def class_tokens_of(self, model: Any) -> int:
        """Class tokens and registers."""
        return int(model.config.vision_config.num_summary_tokens)

    def placeholder_ids(self, model: Any) -> Mapping[str, int]:
        """Images only."""
        return {"image": model.config.image_token_id}

    def vision_attention(self, model: Any) -> nn.Module:
        """Attention of the last tower layer."""
        attention: nn.Module = model.vision_model.encoder.layer[-1].attention
        return attention

    def units(self, model: Any, modality: str, arguments: Mapping[str, Any]) -> Sequence[Unit]:
        """One unit per image.

        Raises:
            UnsupportedOperationError: a video.
        """
        if modality == "video":
            raise UnsupportedOperationError(
                f"{self.name} models mark the tokens of videos like those of images, so videos cannot be pruned; pass "
                f"their frames as images"
            )
        side, merge = int(model.config.vision_config.patch_size), round(1 / model.config.downsample_ratio)
        grids = arguments["image_grid_hw"].tolist()
        starts = np.cumsum([0, *(rows * columns for rows, columns in grids)]).tolist()
        return [
            Unit(
                views=slice(view, view + 1),
                layout=merged_layout(1, rows, columns, merge),
                to_tokens=merge_rows(merge, rows, columns),
                entropy=partial(flat_entropy, arguments["pixel_values"][start:end], side),
                packed_patches=rows * columns,
            )
            for view, ((rows, columns), (start, end)) in enumerate(zip(grids, pairwise(starts), strict=True))
        ]
