"""Token mixers learn from those of another decoder, each from the states that the other one's has before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..architectures.base import HEAD, Architecture
from .branches import CHUNK, Branches, memory
from .examples import Batch
from .objective import answer_scores, branch_mask, visual_tokens


def mixer_losses(architecture: Architecture, model: Any, teacher: Any, batch: Batch) -> Mapping[str, Tensor]:
    """``total``: squared errors of attention and recurrent layers in units of what they should give, summed up.

    Image and text weigh the same. The teacher sees what the model's own tower gives it.

    Args:
        architecture: of the model.
        model: its mixers learn.
        teacher: a model with full attention in at least as many layers.
        batch: scenes and questions.
    """
    with torch.no_grad():
        visual, _ = visual_tokens(architecture, model, batch, tiled=True)
        seen, wanted = _observed(teacher, architecture, batch, visual)
    visible, decoder = HEAD + visual.shape[1], model.model.language_model
    branches, cache = Branches.of(batch), memory(decoder.config)
    positions = architecture.positions(batch.canvas, visual.shape[1], batch.offset)
    rotary, mask = decoder.rotary_emb(visual, positions), branch_mask(batch.branch, visible)
    total = torch.zeros(())
    for number, layer in enumerate(decoder.layers):
        states = seen[number]
        if layer.block_type == "linear_attention":
            image = layer.linear_attn(states[:, :visible], cache)
            own: Any = cache.layers[number]
            own.batch_select_indices(branches.scene)
            rows = layer.linear_attn(branches.split(states[:, visible:]), cache, chunk_size=CHUNK)
            text = branches.join(rows)
        else:
            given, _ = layer.self_attn(states, position_embeddings=rotary, attention_mask=mask)
            image, text = given[:, :visible], given[:, visible:]
        goal = wanted[number]
        parts = (image, goal[:, :visible]), (text[branches.real], goal[:, visible:][branches.real])
        for mine, theirs in parts:
            total = total + (mine - theirs).square().mean() / theirs.square().mean()
    return {"total": total}


def _observed(
    teacher: Any, architecture: Architecture, batch: Batch, visual: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """What goes into the attention of each layer and what comes out, ``[B, visible + T, width]`` each."""
    seen, wanted = list[Tensor](), list[Tensor]()

    def note(_: Any, args: tuple[Any, ...], options: Mapping[str, Any], out: tuple[Tensor, ...]) -> None:
        seen.append(options["hidden_states"] if "hidden_states" in options else args[0])
        wanted.append(out[0])

    hooks = [
        layer.self_attn.register_forward_hook(note, with_kwargs=True) for layer in teacher.model.language_model.layers
    ]
    try:
        answer_scores(architecture, teacher, batch, visual)
    finally:
        for hook in hooks:
            hook.remove()
    return seen, wanted
