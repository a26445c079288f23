"""Eq. 6-7 under an exact budget, found by brute force over k, the selection of later stages, and separators."""

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
    ranked = ranking(importance, range(len(position)))
    return [k + len(group(ranked[k:], position, side)) for k in range(len(ranked) + 1)]


def solutions(importance, position, side, count):
    """Every way to keep the first k and recycle the rest per cell that leaves exactly ``count`` tokens, none apart."""
    ranked = ranking(importance, range(len(position)))
    found = []
    for k in range(len(ranked) + 1):
        cells = group(ranked[k:], position, side)
        if k + len(cells) == count:
            found.append(_outcome(importance, ranked[:k], list(cells.values()), len(position)))
    if not found:  # fewer slots than cells: the heaviest cells, of equals the one that comes first
        cells = group(ranked, position, side)
        heavy = sorted(cells, key=lambda cell: (-_mass(importance, cells[cell]), cell))
        found.append(_outcome(importance, [], [cells[cell] for cell in heavy[:count]], len(position)))
        last, first_lost = (_mass(importance, cells[heavy[place]]) for place in (count - 1, count))
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


def neighbour(position, separator):
    """The token with a patch to whose row a separator belongs: the last before it, or else the first after it."""
    places = [*range(separator - 1, -1, -1), *range(separator + 1, len(position))]
    return next((i for i in places if not is_structural(position[i])), None)


def row_of(position, separator):
    """Tokens with a patch in the row of a separator."""
    beside = neighbour(position, separator)
    if beside is None:
        return []
    view, row, _ = position[beside]
    return [i for i in range(len(position)) if position[i][0] == view and position[i][1] == row]


def worth(importance, position, separators, rated):
    """What tokens are ranked by, if ``rated`` were left when importance was found."""
    values = [0 if is_structural(place) else value for place, value in zip(position, importance, strict=True)]
    if separators == "rank":
        for i in (i for i in range(len(position)) if is_structural(position[i])):
            row = [values[j] for j in row_of(position, i) if j in rated]
            values[i] = np.sum(row, dtype=np.float32) / np.float32(len(row)) if row else np.finfo(np.float32).min
    return np.array(values, dtype=np.float32)


def spread(tokens):
    """Tokens in the order in which they are retained: any number of first ones is spread evenly."""
    bits = len(f"{max(len(tokens) - 1, 0):b}")
    return [tokens[i] for i in sorted(range(len(tokens)), key=lambda i: f"{i:0{bits}b}"[::-1])]


def stage(importance, position, separators, found, count, recycler=None, rated=None):
    """One stage: who of the tokens ``found`` is retained, and what is merged.

    Args:
        importance: of the tokens with a patch.
        position: of all tokens.
        separators: "keep", "rank", "merge" or "drop".
        found: tokens that are left.
        count: how many to retain.
        recycler: (values, tokens, count) -> an outcome over the tokens.
        rated: tokens that were left when importance was found; by default all.
    """
    everything = range(len(position))
    values = worth(importance, position, separators, everything if rated is None else rated)
    apart = [i for i in everything if is_structural(position[i])]
    if separators == "rank" or len(apart) == len(position):
        apart = []
    competing = [i for i in found if i not in apart]
    free = min(count, len(competing))
    if separators == "keep" and apart:
        free = max(1, count - len(apart))
    kept = [i for i in spread(apart) if i in found][: count - free]
    if recycler is None or free == len(competing):
        outcome = _outcome(values, ranking(values, competing)[:free] + kept, [], len(position))
    else:
        outcome, inner = _outcome(values, kept, [], len(position)), recycler(values, competing, free)
        outcome.retained |= inner.retained
        outcome.anchor |= inner.anchor
        outcome.weight |= inner.weight
        outcome.margin = inner.margin
    if separators == "merge":
        _join(outcome, position, [i for i in apart if i in found and i not in kept])
    return outcome


def stages(importance, position, separators, counts, side=None):
    """Every stage of a unit; the first one merges if a side is given."""
    outcomes, found = [], range(len(position))
    recycler = None if side is None else grid(position, side)
    for count in counts:
        outcomes.append(stage(importance, position, separators, found, count, None if outcomes else recycler))
        found = sorted(outcomes[-1].retained)
    return outcomes


def grid(position, side):
    """Recycling per cell, as :func:`stage` takes it."""

    def recycler(values, tokens, count):
        inner = recycle(values[tokens], [_placed(position, i) for i in tokens], side, count)
        anchor = {tokens[i]: tokens[head] if head >= 0 else -1 for i, head in inner.anchor.items()}
        weight = {tokens[i]: share for i, share in inner.weight.items()}
        return Outcome({tokens[i] for i in inner.retained}, anchor, weight, inner.margin)

    return recycler


def _placed(position, i):
    """The place of a token in its grid; of a separator that of the token whose row it belongs to."""
    if not is_structural(position[i]):
        return position[i]
    beside = neighbour(position, i)
    return (0, 0, i) if beside is None else position[beside]


def _join(outcome, position, lost):
    """Separators join the last retained token of their row as one more among all that it stands for."""
    heads = {i: [j for j in row_of(position, i) if j in outcome.retained] for i in lost}
    heads = {i: row[-1] for i, row in heads.items() if row}
    for head in set(heads.values()):
        members = [i for i, other in outcome.anchor.items() if other == head]
        joining = [i for i, other in heads.items() if other == head]
        everyone = len(members) + len(joining)
        for i in members:
            outcome.weight[i] *= len(members) / everyone
        for i in joining:
            outcome.anchor[i], outcome.weight[i] = head, 1 / everyone


def merged_embeddings(outcome, embeddings):
    """Eq. 7: at each retained token the weighted mean of the embeddings that it carries."""
    slots = np.zeros(embeddings.shape, dtype=np.float64)
    for i, head in outcome.anchor.items():
        if head >= 0:
            slots[head] += outcome.weight[i] * embeddings[i].astype(np.float64)
    return slots
