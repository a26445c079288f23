"""Eq. 6-7 under an exact budget, found by brute force over k, and the selection of the later stages."""

import math
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Outcome:
    """The first stage: who is retained, whose slot carries whom (-1: nobody's), and with which share."""

    retained: set
    anchor: dict
    weight: dict
    margin: float = math.inf
    """Relative distance between the last retained and the first dropped cell, where cells had to be dropped."""
    cells: list = field(default_factory=list)
    """Members of each recycled token, for checks on merges."""


def is_structural(place):
    """Whether a (view, row, column) marks a token without a patch."""
    return place[0] < 0


def cell_of(place, side):
    """Eq. 6: the grid cell of a token; grids of different views never share one."""
    view, row, column = (int(value) for value in place)
    return view, math.floor(row / side), math.floor(column / side)


def ranking(importance, tokens):
    """Most important first; of equals the lower index."""
    return sorted(tokens, key=lambda i: (-float(importance[i]), i))


def group(pruned, position, side):
    """Pruned tokens by cell."""
    cells = {}
    for i in pruned:
        cells.setdefault(cell_of(position[i], side), []).append(i)
    return cells


def budgets(importance, position, side):
    """k + c(k) for k = 0, 1, ..., all tokens that have a patch."""
    ranked = ranking(importance, [i for i in range(len(position)) if not is_structural(position[i])])
    return [k + len(group(ranked[k:], position, side)) for k in range(len(ranked) + 1)]


def solutions(importance, position, side, count):
    """Every way to keep the first k and recycle the rest per cell that leaves exactly ``count`` tokens."""
    tokens = range(len(position))
    structural = [i for i in tokens if is_structural(position[i])]
    ranked = ranking(importance, [i for i in tokens if not is_structural(position[i])])
    free = count - len(structural)
    found = []
    for k in range(len(ranked) + 1):
        cells = group(ranked[k:], position, side)
        if k + len(cells) == free:
            found.append(_outcome(importance, structural + ranked[:k], list(cells.values()), len(position)))
    if not found:  # fewer slots than cells: the heaviest cells, of equals the one that comes first
        cells = group(ranked, position, side)
        heavy = sorted(cells, key=lambda cell: (-_mass(importance, cells[cell]), cell))
        found.append(_outcome(importance, structural, [cells[cell] for cell in heavy[:free]], len(position)))
        if free:
            last, first_lost = (_mass(importance, cells[heavy[place]]) for place in (free - 1, free))
            found[0].margin = (last - first_lost) / max(last, 1e-30)
    return found


def recycle(importance, position, side, count):
    """Eq. 6-7 with exactly ``count`` tokens left."""
    return solutions(importance, position, side, count)[0]


def _mass(importance, members):
    return sum(max(float(importance[i]), 0.0) for i in members)


def _outcome(importance, kept, cells, tokens):
    outcome = Outcome(set(kept), dict.fromkeys(range(tokens), -1), dict.fromkeys(range(tokens), 0.0), cells=cells)
    for i in kept:
        outcome.anchor[i], outcome.weight[i] = i, 1.0
    for members in cells:
        head = ranking(importance, members)[0]
        total = _mass(importance, members)
        outcome.retained.add(head)
        for i in members:
            outcome.anchor[i] = head
            outcome.weight[i] = max(float(importance[i]), 0.0) / total if total > 0 else 1 / len(members)
    return outcome


def keep_most_important(importance, position, candidates, count):
    """A stage without recycling: structural tokens, then the most important of ``candidates``."""
    structural = [i for i in candidates if is_structural(position[i])]
    rest = ranking(importance, [i for i in candidates if not is_structural(position[i])])
    return set(structural + rest[: count - len(structural)])


def merged_embeddings(outcome, embeddings):
    """Eq. 7: at each retained token the weighted mean of the embeddings that it carries."""
    slots = np.zeros(embeddings.shape, dtype=np.float64)
    for i, head in outcome.anchor.items():
        if head >= 0:
            slots[head] += outcome.weight[i] * embeddings[i].astype(np.float64)
    return slots
