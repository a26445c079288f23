"""What the architectures with any-resolution tiles see of an image: the whole of it, squeezed, and its tiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..geometry import squeeze, tile, views
from .base import Architecture


class Tiled(Architecture):
    """Base view and tiles."""

    def views(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``[1 + tiles, 112, 112, 3]``."""
        return views(image)

    def planes(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``[1 + tiles, 112, 112]``."""
        return np.concatenate([squeeze(plane)[None], tile(plane, (plane.shape[0], plane.shape[1]))])
