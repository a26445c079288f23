"""Questions behind one image for decoders with recurrent layers: each goes on from the states that the image left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionLayer

from vflowopt_hf.upstream import with_cache

from .examples import Batch

CHUNK: Final = 16
"""Tokens that a recurrent layer takes at a time in a branch; by default it would fill branches up to 64."""


@dataclass(frozen=True, slots=True, eq=False)
class Branches:
    """The branches of a batch as rows of their own, R in all, filled up behind their ends to length L.

    Attributes:
        scene: ``[R]`` row of the batch that a branch belongs to.
        row: ``[B, T]`` branch of each text token, 0 for filler.
        place: ``[B, T]`` place of each text token in its branch.
        real: ``[B, T]`` whether it is one.
    """

    scene: Tensor
    row: Tensor
    place: Tensor
    real: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Branches:
        """The branches of a batch."""
        counts = batch.branch.amax(1) + 1
        first = counts.cumsum(0) - counts
        real = batch.branch >= 0
        row = torch.where(real, first[:, None] + batch.branch, 0)
        return cls(torch.arange(len(counts)).repeat_interleave(counts), row, batch.offset, real)

    def split(self, text: Tensor) -> Tensor:
        """``[B, T, ...]`` to ``[R, L, ...]``, zero behind ends."""
        length = int(self.place.max()) + 1
        rows = text.new_zeros(len(self.scene), length, *text.shape[2:])
        return rows.index_put((self.row[self.real], self.place[self.real]), text[self.real])

    def join(self, rows: Tensor) -> Tensor:
        """``[R, L, ...]`` back to ``[B, T, ...]``; filler gets what stands first."""
        return rows[self.row, self.place]


class _State(LinearAttentionLayer):
    """States that are replaced, not overwritten: gradients need the old ones."""

    def update_conv_state(
        self, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **_: Any
    ) -> Tensor:
        before = self.conv_states[state_idx]
        states = conv_states if before is None else torch.cat([before, conv_states], -1)
        self.conv_states[state_idx] = states if conv_kernel_size is None else states[..., -conv_kernel_size:]
        return states

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **_: Any) -> Tensor:
        self.recurrent_states[state_idx] = recurrent_states
        self.has_previous_state[state_idx] = True
        return recurrent_states

    def batch_select_indices(self, indices: Tensor) -> None:
        for states in (self.conv_states, self.recurrent_states):
            states.update({number: state[indices] for number, state in states.items() if state is not None})


def memory(config: Any) -> Cache:
    """An empty cache that gradients go through, and that can go on with other rows of the batch in all layers."""
    return Cache(layers=[_State() if kind == "linear_attention" else DynamicLayer() for kind in config.layer_types])


def recurrent(language_model: Any) -> bool:
    """Whether layers have a state in place of keys, which no mask can divide between branches."""
    return "linear_attention" in (getattr(language_model.config, "layer_types", None) or ())


def hidden_of_branches(language_model: Any, states: Tensor, positions: Tensor, visible: int, batch: Batch) -> Tensor:
    """Last hidden states of the text, ``[B, T, width]``; filler gets any.

    Args:
        language_model: of the model.
        states: ``[B, visible + T, width]`` embeddings.
        positions: ``[3, B, visible + T]``.
        visible: tokens that all branches see.
        batch: whose text it is.
    """
    branches, cache = Branches.of(batch), memory(language_model.config)
    image = {"inputs_embeds": states[:, :visible], "position_ids": positions[..., :visible]}
    language_model(**with_cache(language_model, image, cache))
    cache.batch_select_indices(branches.scene)
    text = {
        "inputs_embeds": branches.split(states[:, visible:]),
        "position_ids": torch.stack([branches.split(axis[:, visible:]) for axis in positions]),
    }
    rows = language_model(**with_cache(language_model, text, cache), chunk_size=CHUNK).last_hidden_state
    return branches.join(rows)
