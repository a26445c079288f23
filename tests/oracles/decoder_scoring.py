"""Which tokens methods that rank by the decoder's attention keep: upstream's eager attention, then loops in float64.

Stages are found one after the other. For each, upstream's full-length forward without cache runs once, with the keys of
what earlier stages pruned hidden by explicit masks.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from oracles import pruning
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
        last: position of the sample's last token.
    """

    attention: np.ndarray
    entered: np.ndarray
    rows: list[int]
    structural: list[bool]
    alive: list[int]
    texts: list[int]
    last: int

    def mean_over_heads(self, query, key):
        """Attention of one position to another."""
        return sum(float(head[query, key]) for head in self.attention) / len(self.attention)

    def most_over_heads(self, query, key):
        """The same of the head that attends most."""
        return max(float(head[query, key]) for head in self.attention)


def from_last_token(seen):
    """FastV and PyramidDrop."""
    return {token: seen.mean_over_heads(seen.last, seen.rows[token]) for token in seen.alive}


def raters(entered, images, texts):
    """SparseVLM's choice among text positions."""
    relevance = np.zeros(len(texts))
    for row in images:
        scores = np.array([entered[row] @ entered[text] for text in texts])
        shares = np.exp(scores - scores.max())
        relevance += shares / shares.sum() / len(images)
    chosen = [text for text, value in zip(texts, relevance, strict=True) if value > relevance.mean()]
    assert 0 < len(chosen) < len(texts)
    return chosen


def from_raters(seen):
    """SparseVLM."""
    images = [row for row, structural in zip(seen.rows, seen.structural, strict=True) if not structural]
    chosen = raters(seen.entered, images, seen.texts)
    return {
        token: sum(seen.mean_over_heads(text, seen.rows[token]) for text in chosen) / len(chosen)
        for token in seen.alive
    }


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
        with recorded_weights(decoder.layers[boundary - 1].self_attn) as calls, torch.no_grad():
            Oracle(subject, batch, known).logits(batch.inputs["input_ids"])
        (weights,) = calls
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
            )
            worth = rank(seen)
            importance = np.array([worth.get(token, 0.0) for token in range(plan.tokens)])
            count = plan.counts[stage]
            outcome = pruning.stage(importance, plan.position, separators, alive, count, rated=alive)
            kept[unit].append(sorted(outcome.retained))
    return kept
