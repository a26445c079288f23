"""What is minimised: answers through the language model, and names of patches through the projector."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..architectures.base import HEAD, Architecture
from ..task import IGNORE
from ..vocabulary import COLORS, DIGITS, SHAPES, TURN_START, VOCABULARY
from .branches import hidden_of_branches, recurrent
from .examples import Batch

GROUPS: Final = (tuple(COLORS), SHAPES, DIGITS)
_BACKGROUND: Final = 0.12  # weight of a background patch: there are many


class PatchNames(nn.Module):
    """Names what a patch shows with the language model's own word embeddings.

    The score of a word is the inner product of the patch's visual token with the word's embedding, so that training
    the tower also lines up both spaces: a visual token of a red object holds something of the word "red".
    """

    def __init__(self) -> None:
        super().__init__()
        self.background = nn.Parameter(torch.zeros(len(GROUPS)))
        self.log_scale = nn.Parameter(torch.full((len(GROUPS),), 2.0))

    def forward(self, tokens: Tensor, embeddings: Tensor) -> list[Tensor]:
        """Scores per group: ``[..., width]`` and ``[words, width]`` to a list of ``[..., 1 + words of the group]``."""
        scores = []
        for group, names in enumerate(GROUPS):
            rows = embeddings[[VOCABULARY[name] for name in names]].float()
            named = (tokens.float() @ rows.T) * self.log_scale[group].exp()
            nothing = self.background[group].expand(*named.shape[:-1], 1)
            scores.append(torch.cat([nothing, named], -1))
        return scores

    def loss(self, tokens: Tensor, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy over the groups; ``tokens`` ``[..., width]``, ``labels`` ``[..., 3]``."""
        total = torch.zeros(())
        for group, score in enumerate(self.forward(tokens, embeddings)):
            wanted = labels[..., group].reshape(-1)
            weight = torch.where(wanted > 0, 1.0, _BACKGROUND) * (wanted != IGNORE)
            each = functional.cross_entropy(
                score.reshape(-1, score.shape[-1]), wanted, ignore_index=IGNORE, reduction="none"
            )
            total = total + (each * weight).sum() / weight.sum().clamp(min=1)
        return total


def visual_tokens(architecture: Architecture, model: Any, batch: Batch, tiled: bool) -> tuple[Tensor, Tensor]:
    """Visual tokens as the model itself packs them, and the vectors per cell that they were made of.

    Args:
        architecture: of the model.
        model: the model.
        batch: B scenes.
        tiled: all views, as for one image in a prompt; otherwise the first view only.

    Returns:
        ``[B, N, width]`` and ``[B, V, cells, width]``.
    """
    pixels = batch.pixels if tiled else batch.pixels[:, :1]
    vectors = architecture.cell_vectors(model, pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])
    return architecture.pack(model, vectors, batch.canvas), vectors


def answer_scores(architecture: Architecture, model: Any, batch: Batch, visual: Tensor) -> Tensor:
    """Next-word scores ``[B, T, words]`` of the text of a batch: each branch sees the image and itself only."""
    embed = model.get_input_embeddings()
    count, visible = visual.shape[0], HEAD + visual.shape[1]
    head = embed(torch.tensor([VOCABULARY[TURN_START], VOCABULARY["user"]])).expand(count, -1, -1)
    states = torch.cat([head, visual.to(head.dtype), embed(batch.ids)], 1)
    positions = architecture.positions(batch.canvas, visual.shape[1], batch.offset)
    decoder = model.model.language_model
    if recurrent(decoder):
        return model.lm_head(hidden_of_branches(decoder, states, positions, visible, batch))  # type: ignore[no-any-return]
    hidden = decoder(
        inputs_embeds=states,
        attention_mask=branch_mask(batch.branch, visible),
        position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    return model.lm_head(hidden[:, visible:])  # type: ignore[no-any-return]


def branch_mask(branch: Tensor, visible: int) -> Tensor:
    """Additive mask ``[B, 1, visible + T, visible + T]``."""
    count, text = branch.shape
    allowed = torch.zeros(count, visible + text, visible + text, dtype=torch.bool)
    allowed[:, :visible, :visible] = torch.ones(visible, visible, dtype=torch.bool).tril()
    allowed[:, visible:, :visible] = True
    same = branch[:, :, None] == branch[:, None, :]
    allowed[:, visible:, visible:] = same & torch.ones(text, text, dtype=torch.bool).tril()
    dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def answer_loss(scores: Tensor, batch: Batch) -> Tensor:
    """Weighted mean cross entropy of the answers' words; ``scores`` ``[B, T, words]``."""
    chosen = batch.targets != IGNORE
    weight = batch.weights[chosen]
    each = functional.cross_entropy(scores[chosen].float(), batch.targets[chosen], reduction="none")
    return (each * weight).sum() / weight.sum()
