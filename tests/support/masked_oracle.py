"""The oracle of staged pruning: a full-length forward without cache, in which explicit masks hide what was pruned.

Shares no code with the runtime. It is given, per sample, which rows are alive in which layer and which rows of the
embeddings were replaced by recycled tokens, and runs the stock decoder layers over all rows.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def unpruned_embeddings(model, inputs) -> Tensor:
    """What upstream hands to its decoder for these inputs: [batch, queries, features]."""
    seen = []
    handle = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    try:
        with torch.no_grad():
            model(**inputs, use_cache=False)
    finally:
        handle.remove()
    return seen[0]


def oracle_logits(
    model,
    embeddings: Tensor,
    attention_mask: Tensor,
    plans: Sequence[tuple[int, np.ndarray, object]],
) -> Tensor:
    """Logits [batch, queries, vocabulary]; rows that were pruned hold garbage.

    Args:
        model: the model.
        embeddings: [batch, queries, features], visual features in place, generated tokens included.
        attention_mask: [batch, queries].
        plans: (sample, rows of the unit's tokens in the sequence, host plan) per unit.
    """
    decoder = model.model.language_model
    hidden = embeddings.clone()
    batch, queries, _ = hidden.shape
    alive = {}
    boundaries = [0]
    for sample, rows, plan in plans:
        anchor, weight = np.asarray(plan.anchor), np.asarray(plan.weight)
        if plan.recycled:
            original = embeddings[sample, rows].double().numpy()
            for token in plan.kept[0]:
                members = [i for i in range(len(rows)) if anchor[i] == token]
                mean = sum(float(weight[i]) * original[i] for i in members)
                hidden[sample, rows[token]] = torch.from_numpy(mean).float()
        boundaries = [*boundaries, *plan.boundaries]
    for layer in range(len(decoder.layers)):
        mask = attention_mask.bool().clone()
        for sample, rows, plan in plans:
            for boundary, kept in zip(plan.boundaries, plan.kept, strict=True):
                if boundary <= layer:
                    mask[sample, rows] = False
                    mask[sample, rows[np.asarray(kept)]] = True
        alive[layer] = mask
    positions = torch.arange(queries)[None]
    table = decoder.rotary_emb(hidden, positions)
    causal = torch.ones(queries, queries, dtype=torch.bool).tril()
    with torch.no_grad():
        for index, layer in enumerate(decoder.layers):
            seen = causal[None] & alive[index][:, None, :] | torch.eye(queries, dtype=torch.bool)[None]
            additive = torch.zeros(batch, 1, queries, queries).masked_fill(~seen[:, None], torch.finfo(torch.float32).min)
            hidden = layer(hidden, attention_mask=additive, position_embeddings=table, past_key_values=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return model.lm_head(decoder.norm(hidden))
