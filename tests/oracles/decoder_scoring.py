"""Which tokens methods that rank by the decoder's attention keep: upstream's eager attention, then loops in float64.

Stages are found one after the other. For each, upstream's full-length forward without cache runs once, with the keys of
what earlier stages pruned hidden by explicit masks.
"""

import math
import sys
from dataclasses import dataclass, replace

import numpy as np
import torch

from oracles import pruning
from oracles.sparsevlm import raters
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.probe import embed, recorded_weights


@dataclass
class Seen:
    """What one unit's scorer may use at a stage.

    Attributes:
        attention: float64 [heads, positions, positions] of the layer before the stage.
        entered: float64 [positions, features], what entered the decoder.
        rows: positions of the unit's tokens.
        structural: which of the unit's tokens are structural.
        alive: which of the unit's tokens are left.
        texts: positions of text tokens after the unit.
        nearness: float64 [positions, positions], products of vectors of ones that upstream's rotary positions turned;
            ``None`` where nobody asks for it.
        last: position of the sample's last token.
    """

    attention: np.ndarray
    entered: np.ndarray
    rows: list[int]
    structural: list[bool]
    alive: list[int]
    texts: list[int]
    last: int
    nearness: np.ndarray | None = None

    def mean_over_heads(self, query, key):
        """Attention of one position to another."""
        return sum(float(head[query, key]) for head in self.attention) / len(self.attention)

    def most_over_heads(self, query, key):
        """The same of the head that attends most."""
        return max(float(head[query, key]) for head in self.attention)


def from_last_token(seen):
    """FastV and PyramidDrop."""
    return {token: seen.mean_over_heads(seen.last, seen.rows[token]) for token in seen.alive}


def from_raters(seen):
    """SparseVLM."""
    images = [row for row, structural in zip(seen.rows, seen.structural, strict=True) if not structural]
    chosen = raters(seen.entered, images, seen.texts)
    return {
        token: sum(seen.mean_over_heads(text, seen.rows[token]) for text in chosen) / len(chosen)
        for token in seen.alive
    }


def from_raters_without_nearness(seen):
    """SparseVLM+: attention divided by what positions alone give, of the heads that then look at the image most."""
    images = [row for row, structural in zip(seen.rows, seen.structural, strict=True) if not structural]
    chosen = raters(seen.entered, images, seen.texts)
    alive = [token for token in seen.alive if not seen.structural[token]]
    by_head = [
        {
            token: sum(float(head[text, seen.rows[token]]) / seen.nearness[text, seen.rows[token]] for text in chosen)
            for token in seen.alive
        }
        for head in seen.attention
    ]
    count = max(1, round(len(by_head) * 14 / 32))
    assert count < len(by_head)
    voters = sorted(by_head, key=lambda worth: -sum(worth[token] for token in alive))[:count]
    return {token: sum(worth[token] for worth in voters) / count for token in seen.alive}


def turned_ones(module, sample, tables):
    """Products of vectors of ones that were turned as upstream turns queries and keys, float64."""
    if type(module).__name__ == "Cohere2Attention" and module.sliding_window is None:
        return np.ones((tables[0].shape[1], tables[0].shape[1]))
    cosines, sines = (table[sample if len(table) > 1 else 0].double() for table in tables)
    ones = torch.ones(1, 1, len(cosines), module.head_dim, dtype=torch.float64)
    turn = sys.modules[type(module).__module__].apply_rotary_pos_emb
    query, key = turn(ones, ones.clone(), cosines[None], sines[None])
    return (query[0, 0] @ key[0, 0].T / math.sqrt(module.head_dim)).numpy()


def from_own_and_cross(seen):
    """FitPrune."""
    alive = [seen.rows[token] for token in seen.alive]
    return {
        token: sum(seen.most_over_heads(row, seen.rows[token]) for row in alive)
        * sum(seen.most_over_heads(text, seen.rows[token]) for text in seen.texts)
        for token in seen.alive
    }


def kept_tokens(subject, batch, plans, rank, decided=(), separators="drop"):
    """Per unit and stage, the tokens that ``rank`` leaves; of the plans only layouts, boundaries and counts are used.

    ``subject`` has eager attention. What the first units keep may be ``decided`` by their plans. Before the LLM this
    attention decides nothing: what such a stage keeps is taken from the plan.
    """
    everything = [list(range(plan.tokens)) for plan in plans]
    kept = [[] for _ in plans]
    decoder = subject.family.decoder(subject.model)
    with torch.no_grad():
        entered = embed(subject, batch).embeddings.double().numpy()
    for stage, boundary in enumerate(plans[0].boundaries):
        known = [
            replace(plan, boundaries=plan.boundaries[:stage], kept=tuple(np.array(k) for k in own), recycled=False)
            if stage
            else replace(plan, boundaries=(10**6,), kept=(np.arange(plan.tokens),), recycled=False)
            for plan, own in zip(plans, kept, strict=True)
        ]
        if boundary == 0:
            for own, plan in zip(kept, plans, strict=True):
                own.append(plan.kept[0].tolist())
            continue
        layer, tables = decoder.layers[boundary - 1], []
        handle = layer.register_forward_pre_hook(
            lambda _module, _args, kwargs, seen=tables: seen.append(kwargs["position_embeddings"]), with_kwargs=True
        )
        with handle, recorded_weights(layer.self_attn) as calls, torch.no_grad():
            Oracle(subject, batch, known).logits(batch.inputs["input_ids"])
        (weights,), (tables,) = calls, tables
        for unit, (placed, plan) in enumerate(zip(batch.placed, plans, strict=True)):
            if unit < len(decided):
                kept[unit].append(decided[unit].kept[stage].tolist())
                continue
            alive = kept[unit][-1] if stage else everything[unit]
            present = np.flatnonzero(batch.inputs["attention_mask"][placed.sample].numpy())
            images = {int(row) for other in batch.placed if other.sample == placed.sample for row in other.rows}
            seen = Seen(
                attention=weights[placed.sample].double().numpy(),
                entered=entered[placed.sample],
                rows=[int(row) for row in placed.rows],
                structural=plan.structural.tolist(),
                alive=alive,
                texts=[int(row) for row in present if row > placed.rows[-1] and int(row) not in images],
                last=int(present[-1]),
                nearness=turned_ones(layer.self_attn, placed.sample, tables),
            )
            worth = rank(seen)
            importance = np.array([worth.get(token, 0.0) for token in range(plan.tokens)])
            count = plan.counts[stage]
            outcome = pruning.stage(importance, plan.position, separators, alive, count, rated=alive)
            kept[unit].append(sorted(outcome.retained))
    return kept
