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


def place(
    input_ids: Tensor, plans: Sequence[object], placeholders: Sequence[int]
) -> list[tuple[int, np.ndarray, object]]:
    """Where the units' tokens are: the plans are in prompt order, so tokens are handed out in prompt order."""
    placed, remaining = [], list(plans)
    for sample, ids in enumerate(input_ids.numpy()):
        rows = np.flatnonzero(np.isin(ids, placeholders))
        while len(rows):
            plan = remaining.pop(0)
            placed.append((sample, rows[: plan.tokens], plan))
            rows = rows[plan.tokens :]
    assert not remaining
    return placed


def merged(hidden: Tensor, plans: Sequence[tuple[int, np.ndarray, object]]) -> Tensor:
    """Recycled tokens written over their anchors, in float64 and one by one."""
    result = hidden.clone()
    for sample, rows, plan in plans:
        if plan.recycled:
            before = hidden[sample, rows].double().numpy()
            for token in plan.kept[0]:
                members = [i for i in range(len(rows)) if plan.anchor[i] == token]
                mean = sum(float(plan.weight[i]) * before[i] for i in members)
                result[sample, rows[token]] = torch.from_numpy(mean).float()
    return result


def oracle_logits(
    model,
    embeddings: Tensor,
    attention_mask: Tensor,
    plans: Sequence[tuple[int, np.ndarray, object]],
    positions: Tensor | None = None,
) -> Tensor:
    """Logits [batch, queries, vocabulary]; rows that were pruned hold garbage.

    Args:
        model: the model.
        embeddings: [batch, queries, features], visual features in place, generated tokens included.
        attention_mask: [batch, queries].
        plans: (sample, rows of the unit's tokens in the sequence, host plan) per unit.
        positions: [batch, queries]; by default 0, 1, 2, ...
    """
    decoder = model.model.language_model
    hidden = embeddings.clone()
    batch, queries, _ = hidden.shape
    alive = {}
    for layer in range(len(decoder.layers)):
        mask = attention_mask.bool().clone()
        for sample, rows, plan in plans:
            for boundary, kept in zip(plan.boundaries, plan.kept, strict=True):
                if boundary <= layer:
                    mask[sample, rows] = False
                    mask[sample, rows[np.asarray(kept)]] = True
        alive[layer] = mask
    positions = torch.arange(queries)[None] if positions is None else positions
    table = decoder.rotary_emb(hidden, positions)
    causal = torch.ones(queries, queries, dtype=torch.bool).tril()
    with torch.no_grad():
        for index, layer in enumerate(decoder.layers):
            hidden = merged(hidden, [entry for entry in plans if entry[2].boundaries[0] == index])
            seen = causal[None] & alive[index][:, None, :] | torch.eye(queries, dtype=torch.bool)[None]
            additive = torch.zeros(batch, 1, queries, queries).masked_fill(
                ~seen[:, None], torch.finfo(torch.float32).min
            )
            hidden = layer(hidden, attention_mask=additive, position_embeddings=table, past_key_values=None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        return model.lm_head(decoder.norm(hidden))
