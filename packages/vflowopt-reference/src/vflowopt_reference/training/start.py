"""A better start than noise: patch content whitened, and a decoder that answers already."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..architectures.base import Architecture
from ..geometry import PATCH, VIEW
from ..names import path
from .examples import make_batch

_FLOOR = 4e-3  # added to the variances: the weakest components are mostly noise


def start(architecture: Architecture, model: Any, seed: int, scenes: int) -> None:
    """Gives an untrained model what other models have learned, in place, and a patch embedding if none of them saw."""
    if architecture.weights_from is not None:
        adopt_weights(architecture, model)
        return
    prepare_tower(architecture, model, seed, scenes)
    adopt_decoder(architecture, model)


@torch.no_grad()
def prepare_tower(architecture: Architecture, model: Any, seed: int, scenes: int) -> None:
    """Sets the patch embedding to the principal components of real patches, scaled to like variance, in place.

    Half of the patches show objects, half background. The tower then learns in a fraction of the steps.
    """
    width = model.config.text_config.hidden_size
    batch = make_batch(architecture, "train", seed, 0, scenes, (VIEW, VIEW), 1)
    patches = batch.pixels[:, -1].unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)
    cells = architecture.cell // PATCH
    shown = (batch.labels[:, -1, :, 0] > 0).unflatten(1, (VIEW // architecture.cell, -1))
    shown = shown.repeat_interleave(cells, 1).repeat_interleave(cells, 2).reshape(-1)
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(len(shown), -1)
    rng = np.random.default_rng(seed)
    empty = rng.choice(np.flatnonzero(~shown.numpy()), int(shown.sum()), replace=False)
    patches = torch.cat([patches[shown], patches[torch.from_numpy(empty)]])
    mean = patches.mean(0)
    variance, axes = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    strongest = slice(-width, None)
    weight = 0.7 * (axes[:, strongest] / (variance[strongest] + _FLOOR).sqrt()).T
    architecture.prepare_tower(model, weight, mean)


@torch.no_grad()
def adopt_decoder(architecture: Architecture, model: Any) -> None:
    """Starts the decoder, word embeddings included, from that of another reference model, if the architecture says so.

    What the other decoder does not have (the bias of Llama's output projection) starts at zero.
    """
    if architecture.decoder_from is None:
        return
    found = shipped(architecture.decoder_from).model.language_model.state_dict()
    own = model.model.language_model.state_dict()
    extra = set(own) - set(found)
    if set(found) - set(own) or any(not name.endswith("o_proj.bias") for name in extra):
        raise ValueError(f"the decoder of {architecture.decoder_from!r} does not fit {architecture.name!r}")
    model.model.language_model.load_state_dict({**found, **{name: torch.zeros_like(own[name]) for name in extra}})


@torch.no_grad()
def adopt_weights(architecture: Architecture, model: Any) -> None:
    """Starts from all weights of another reference model.

    Words that the other one does not know start as those they are derived from, or as noise of the known words' size.
    """
    assert architecture.weights_from is not None
    other = shipped(architecture.weights_from)
    found = architecture.translated(other.state_dict(), model.state_dict())
    for name, value in model.state_dict().items():
        if value.shape == found[name].shape:
            value.copy_(found[name])
    table, known = model.get_input_embeddings().weight, other.get_input_embeddings().weight
    table.mul_(known.std() / table.std())
    table[: len(known)] = known
    words = architecture.task.vocabulary
    for word, origin in architecture.task.derived.items():
        table[words[word]] = table[words[origin]]


def shipped(name: str) -> Any:
    """A shipped model in float32."""
    from ..architectures import named

    return named(name).model_class.from_pretrained(path(name), dtype=torch.float32)
