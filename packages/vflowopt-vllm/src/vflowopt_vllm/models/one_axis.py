"""What models share whose decoder has one rotary axis, in which an image's tokens stand one after another."""

from typing import Any

import torch
from torch import Tensor

from vflowopt_hf.family import Unit
from vflowopt_vllm.places import AXES
from vflowopt_vllm.pruned_model import PrunedModel


class OneAxis(PrunedModel):
    """Mixin before any of vLLM's models with such a decoder.

    vLLM lets models correct their positions only where positions have several axes: here all have the same, and the
    decoder gets one of them.
    """

    def places(self, image: Unit) -> Tensor:
        """See :meth:`PrunedModel.places`."""
        return torch.arange(image.layout.tokens)[:, None].expand(-1, AXES)

    def forward(self, input_ids: Any, positions: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As upstream's, with one axis of the positions."""
        own = positions[0] if positions.ndim > 1 else positions
        return super().forward(input_ids, own, *args, **kwargs)  # type: ignore[misc]
