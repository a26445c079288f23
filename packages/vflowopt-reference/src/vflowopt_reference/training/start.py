"""A better start for the tower than noise: patch content whitened, positions on sines and cosines."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..geometry import PATCH, SIDE, VIEW
from .examples import make_batch
from .objective import Model

_FLOOR = 4e-3  # added to the variances: the weakest components are mostly noise


def sines(width: int) -> Tensor:
    """A position code per patch, ``[196, width]``: a quarter each for sine and cosine of column and row."""
    rate = 10000.0 ** (-0.5 * torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(SIDE).float(), torch.arange(SIDE).float(), indexing="ij")
    y, x = y.reshape(-1, 1) * rate, x.reshape(-1, 1) * rate
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], 1)


@torch.no_grad()
def prepare_tower(model: Model, seed: int, scenes: int) -> None:
    """Sets the patch embedding to the principal components of real patches, scaled to like variance, in place.

    Half of the patches show objects, half background. The tower then learns in a fraction of the steps.
    """
    embeddings = model.model.vision_tower.embeddings
    width = embeddings.position_embedding.weight.shape[1]
    embeddings.position_embedding.weight.copy_(0.5 * sines(width))
    batch = make_batch("train", seed, 0, scenes, (VIEW, VIEW), 1)
    patches = batch.pixels[:, 1].unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(scenes * SIDE**2, -1)
    shown = batch.labels[:, 1, :, 0].reshape(-1) > 0
    rng = np.random.default_rng(seed)
    empty = rng.choice(np.flatnonzero(~shown.numpy()), int(shown.sum()), replace=False)
    patches = torch.cat([patches[shown], patches[torch.from_numpy(empty)]])
    mean = patches.mean(0)
    variance, axes = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    strongest = slice(-width, None)
    weight = 0.7 * (axes[:, strongest] / (variance[strongest] + _FLOOR).sqrt()).T
    embeddings.patch_embedding.weight.copy_(weight.view_as(embeddings.patch_embedding.weight))
    embeddings.patch_embedding.bias.copy_(-(weight @ mean))
