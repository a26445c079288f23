"""SparseVLM's forward over the full length, layer by layer: nothing is shortened, explicit masks hide what is pruned.

Stock decoder layers run one after the other over all rows. Before a stage its tokens are rated, selected, clustered and
merged by loops in float64 (:mod:`oracles.sparsevlm`); from then on masks hide the keys of those that were pruned.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from oracles import sparsevlm
from oracles.decoder_scoring import Seen, from_raters
from oracles.pruning import is_structural, stage


@dataclass
class Unit:
    """A unit's place: sample, row and position of each token; and what became of it, stage by stage."""

    sample: int
    rows: np.ndarray
    position: np.ndarray
    separators: str
    alive: list = field(init=False)
    outcomes: list = field(default_factory=list)

    def __post_init__(self):
        self.alive = list(range(len(self.rows)))


def run(model, eager, embeddings, mask, units, stages, counts, prompt):
    """Logits [batch, rows, vocabulary]; rows of pruned tokens hold garbage. Fills in what becomes of each unit.

    Args:
        model: the model.
        eager: the same with eager attention, which tells its weights.
        embeddings: [batch, rows, features], visual features in place, generated tokens included.
        mask: [batch, rows], False for padding.
        units: in prompt order.
        stages: boundaries.
        counts: for each unit, tokens after each stage.
        prompt: rows of the prompt; raters are among them.
    """
    decoder = model.model.language_model
    batch, length, _ = embeddings.shape
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)
    table = decoder.rotary_emb(embeddings, positions)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    hidden, seen, weights = embeddings, mask.bool().clone(), None
    with torch.no_grad():
        for index, layer in enumerate(decoder.layers):
            if index in stages:
                hidden = hidden.clone()
                for unit, known in zip(units, counts, strict=True):
                    count = known[stages.index(index)]
                    _prune(unit, units, count, weights, embeddings, hidden, mask, prompt)
                    seen[unit.sample, unit.rows] = False
                    seen[unit.sample, unit.rows[unit.alive]] = True
            visible = causal[None] & seen[:, None, :] | torch.eye(length, dtype=torch.bool)[None]
            additive = torch.zeros(batch, 1, length, length).masked_fill(~visible[:, None], torch.finfo().min)
            arguments = {"attention_mask": additive, "position_embeddings": table, "past_key_values": None}
            if index + 1 in stages:
                twin = eager.model.language_model.layers[index]
                weights = twin.self_attn(twin.input_layernorm(hidden), **arguments)[1]
            hidden = layer(hidden, **arguments)
        return model.lm_head(decoder.norm(hidden))


def _prune(unit, units, count, weights, embeddings, hidden, mask, prompt):
    """One stage of one unit: its outcome, and recycled tokens in ``hidden``."""
    if count == len(unit.alive):
        unit.outcomes.append(None)
        return
    present = [int(row) for row in np.flatnonzero(mask[unit.sample, :prompt].numpy())]
    images = {int(row) for other in units if other.sample == unit.sample for row in other.rows}
    worth = from_raters(
        Seen(
            attention=weights[unit.sample].double().numpy(),
            entered=embeddings[unit.sample].double().numpy(),
            rows=[int(row) for row in unit.rows],
            structural=[is_structural(place) for place in unit.position],
            alive=unit.alive,
            texts=[row for row in present if row > unit.rows[-1] and row not in images],
            last=present[-1],
        )
    )
    states = hidden[unit.sample, unit.rows].double().numpy()

    def recycler(values, tokens, count):
        return sparsevlm.recycle(values, tokens, count, states)

    importance = np.array([worth.get(token, 0.0) for token in range(len(unit.rows))])
    outcome = stage(importance, unit.position, unit.separators, unit.alive, count, recycler, rated=unit.alive)
    for token in outcome.retained:
        members = [member for member, slot in outcome.anchor.items() if slot == token]
        total = sum(outcome.weight[member] * states[member] for member in members)
        hidden[unit.sample, unit.rows[token]] = torch.from_numpy(total).float()
    unit.alive = sorted(outcome.retained)
    unit.outcomes.append(outcome)
