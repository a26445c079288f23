"""What other papers' methods keep and merge before the LLM, by loops in float64."""

import math
from dataclasses import dataclass

from oracles.pruning import ranking


@dataclass
class Merged:
    """Who is retained, whose slot carries whom, with which share, and how clear the choices were."""

    retained: set
    anchor: list
    weight: list
    margin: float


def distance(a, b):
    """Cosine distance; 1 from anything to a vector that is 0."""
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
    return 1.0 - (sum(x * y for x, y in zip(a, b, strict=True)) / lengths if lengths else 0.0)


def diverse(features, count):
    """DivPrune: the first ``count`` tokens, and by how much each was ahead of the next best."""
    vectors = [[float(value) for value in row] for row in features]
    apart = [[distance(a, b) for b in vectors] for a in vectors]
    chosen, margin = [], math.inf
    for _ in range(count):
        scores = {}
        for token in range(len(vectors)):
            if token not in chosen:
                others = chosen or [other for other in range(len(vectors)) if other != token]
                scores[token] = min((apart[other][token] for other in others), default=math.inf)
        best = ranking(scores, scores)
        if len(best) > 1:
            margin = min(margin, scores[best[0]] - scores[best[1]])
        chosen.append(best[0])
    return chosen, margin


def zipped(importance, keys, count, contextual):
    """VisionZip: dominant tokens are kept, the others join the contextual target of the most similar key."""
    tokens = range(len(importance))
    targets = math.floor(contextual * count + 0.5)
    dominant = set(ranking(importance, tokens)[: count - targets])
    left = [i for i in tokens if i not in dominant]
    step = max(1, len(left) // targets) if targets else 0
    chosen = [left[place * step] for place in range(targets)]
    slots, margin = {target: [target] for target in chosen}, math.inf
    anchor = [i if i in dominant or i in chosen else -1 for i in range(len(importance))]
    for token in left:
        if targets and token not in chosen:
            apart = {target: distance(keys[token], keys[target]) for target in chosen}
            best = sorted(chosen, key=lambda target: (apart[target], target))
            if len(best) > 1:
                margin = min(margin, apart[best[1]] - apart[best[0]])
            anchor[token] = best[0]
            slots[best[0]].append(token)
    weight = [0.0 if slot < 0 else 1 / len(slots[slot]) if slot in slots else 1.0 for slot in anchor]
    retained = {i for i, slot in enumerate(anchor) if slot == i}
    return Merged(retained, anchor, weight, margin)


def kept(importance, structural, count):
    """The most important of the tokens that have a patch."""
    return set(ranking(importance, [i for i in range(len(importance)) if not structural[i]])[:count])
