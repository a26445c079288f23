"""From normalised pixels back to the 8-bit image that the vision tower saw, and its patch entropy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vflowopt.components.entropy import gray_levels, patch_entropy
from vflowopt.errors import InputError


@dataclass(frozen=True)
class PixelStatistics:
    """Normalisation of an image processor: ``(value / 255 - mean) / std`` per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, processor: Any) -> "PixelStatistics":
        """Read them from a processor or image processor.

        Raises:
            InputError: it has no ``image_mean`` and ``image_std``.
        """
        image_processor = getattr(processor, "image_processor", processor)
        mean, std = getattr(image_processor, "image_mean", None), getattr(image_processor, "image_std", None)
        if not isinstance(mean, Sequence) or not isinstance(std, Sequence):
            raise InputError(
                f"{type(processor).__name__} has no image_mean and image_std; pass the model's own processor"
            )
        return cls(tuple(map(float, mean)), tuple(map(float, std)))


def image_entropy(pixels: Tensor, patch_size: int, statistics: PixelStatistics) -> Tensor:
    """Patch entropy of normalised images (paper Eq. 3).

    Args:
        pixels: float [views, 3, height, width] as the vision tower takes them.
        patch_size: side of a patch in pixels.
        statistics: normalisation to invert.

    Returns:
        float32 [views, patches], nats.
    """
    channels = zip(pixels.float().unbind(-3), statistics.mean, statistics.std, strict=True)
    # Numbers become arguments of operators: nothing has to be copied to the device.
    shown = torch.stack([channel * std + mean for channel, mean, std in channels], dim=-3)
    eight_bit = (shown * 255).round().clamp(0, 255)
    entropy: Tensor = patch_entropy(gray_levels(eight_bit), patch_size)
    return entropy
