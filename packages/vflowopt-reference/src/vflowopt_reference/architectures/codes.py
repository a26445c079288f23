"""Positions on sines and cosines, where a tower's position embeddings start."""

from __future__ import annotations

import torch
from torch import Tensor


def sines(side: int, width: int) -> Tensor:
    """A position code per patch, ``[side * side, width]``: a quarter each for sine and cosine of column and row."""
    rate = 10000.0 ** (-0.5 * torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    y, x = y.reshape(-1, 1) * rate, x.reshape(-1, 1) * rate
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], 1)
