"""What further papers' methods choose before the LLM, by loops in float64 from their equations."""

import itertools
import math

import numpy as np

from oracles.greedy import similarities


def descending(values, items):
    """Items by their values, and the smallest difference between two that follow each other."""
    ordered = sorted(items, key=lambda item: (-values[item], item))
    gaps = [values[a] - values[b] for a, b in itertools.pairwise(ordered)]
    return ordered, min(gaps, default=math.inf)


def vispruner(attention, features, count, important):
    """What is retained, and how clear the choices were."""
    weight, like = [float(value) for value in attention], similarities(features)
    ranked, margin = descending(weight, range(len(weight)))
    left = ranked[important:] if count > important else []
    while len(left) > max(0, count - important):
        even, odd = left[0::2], left[1::2]
        nearest = {i: max(like[i][j] for j in odd) for i in even}
        place = {i: number for number, i in enumerate(even)}
        ordered = sorted(even, key=lambda i: (-nearest[i], place[i]))
        margin = min([margin, *(nearest[a] - nearest[b] for a, b in itertools.pairwise(ordered))])
        left = ordered[min(8, len(left) - (count - important), len(even)) :] + odd
    return set(ranked[:important]) | set(left), margin


def hierarchical(early, late, places, count, alpha):
    """HiPrune: anchors, their neighbours, and the best of the others by late attention; anchors and all retained."""
    anchors = descending(early, range(len(early)))[0][: math.floor(alpha * count / 5 + 0.5)]
    number = {tuple(place): token for token, place in enumerate(places)}
    around = [
        (v, r + y, c + x) for v, r, c in (places[i] for i in anchors) for y, x in ((-1, 0), (1, 0), (0, -1), (0, 1))
    ]
    buffers = {number[place] for place in around if place in number} - set(anchors)
    kept = [*anchors, *descending(late, buffers)[0]]
    others = [token for token in range(len(late)) if token not in kept]
    return set([*kept, *descending(late, others)[0]][:count])


def residuals(features, rank):
    """LRCP: lengths of what the first principal components leave."""
    centred = np.asarray(features, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    _, _, components = np.linalg.svd(centred, full_matrices=True)
    first = components[:rank]
    return np.linalg.norm(centred - centred @ first.T @ first, axis=1)


def conditional(features, text, negative, count):
    """CDPruner: greedy by determinants, as they are. The lead is relative."""
    unit = [np.asarray(row, dtype=np.float64) / max(np.linalg.norm(row.astype(np.float64)), 1e-300) for row in features]
    words = [np.asarray(row, dtype=np.float64) / np.linalg.norm(row.astype(np.float64)) for row in text]
    raw = [sum(float(x @ word) for word in words) / len(words) * (-1 if negative else 1) for x in unit]
    least, most = min(raw), max(raw)
    relevance = [(value - least) / (most - least if most > least else 1.0) + 1e-6 for value in raw]
    weighted = [value * x for value, x in zip(relevance, unit, strict=True)]
    kernel = np.array([[float(a @ b) for b in weighted] for a in weighted])

    def worth(chosen):
        before = np.linalg.det(kernel[np.ix_(chosen, chosen)]) if chosen else 1.0
        rows = ([*chosen, i] for i in range(len(raw)))
        return [0.0 if i in chosen else np.linalg.det(kernel[np.ix_(row, row)]) / before for i, row in enumerate(rows)]

    chosen, margin = [], math.inf
    for _ in range(count):
        gains = worth(chosen)
        ordered, _ = descending(gains, [i for i in range(len(raw)) if i not in chosen])
        if len(ordered) > 1:
            margin = min(margin, (gains[ordered[0]] - gains[ordered[1]]) / max(gains[ordered[0]], 1e-300))
        margin = min(margin, gains[ordered[0]] / kernel[ordered[0], ordered[0]])  # inside the span, rounding decides
        chosen.append(ordered[0])
    return chosen, margin


def changed(features, position):
    """EVS: cosine distance to the token in the same place of the frame before; inf without one, None if structural."""
    like = similarities(features)
    places = {tuple(place): token for token, place in enumerate(position.tolist()) if place[0] >= 0}
    return [
        None
        if place[0] < 0
        else 1 - like[token][places[place[0] - 1, place[1], place[2]]]
        if (place[0] - 1, place[1], place[2]) in places
        else math.inf
        for token, place in enumerate(position.tolist())
    ]


def commander(features, views, count):
    """VidCom2: which tokens are retained, and how clear the choices were."""
    values = np.asarray(features, dtype=np.float64)
    variance = [float(np.mean((column - column.mean()) ** 2)) for column in values.T]
    steady = sorted(range(len(variance)), key=lambda i: (variance[i], i))
    half, margin = steady[: len(steady) // 2], math.inf
    margin = min(margin, variance[steady[len(steady) // 2]] - variance[steady[len(steady) // 2 - 1]])
    vectors = [row[half] / max(np.linalg.norm(row[half]), 1e-300) for row in values]
    frames = sorted(set(views.tolist()))
    members = {frame: [i for i in range(len(vectors)) if views[i] == frame] for frame in frames}
    widths = [2.0**power for power in range(-3, 2)]

    def kernel(a, b):
        return sum(math.exp(-float((a - b) @ (a - b)) / (2 * width)) for width in widths)

    whole = sum(vectors) / len(vectors)
    of_video = [kernel(vector, whole) for vector in vectors]
    centres = {frame: sum(vectors[i] for i in members[frame]) / len(members[frame]) for frame in frames}
    score = [of_video[i] + kernel(vectors[i], centres[views[i]]) for i in range(len(vectors))]
    logits = {f: -sum(of_video[i] for i in members[f]) / len(members[f]) / 0.01 for f in frames}
    odds = {f: math.exp(logits[f] - max(logits.values())) for f in frames}
    unique = {f: odds[f] / sum(odds.values()) for f in frames}
    share = {f: (1 + unique[f] - sum(unique.values()) / len(frames)) * len(members[f]) for f in frames}
    queue = {}
    for frame in frames:
        queue[frame], lead = descending([-value for value in score], members[frame])
        margin = min(margin, lead)
    taken = dict.fromkeys(frames, 0)
    for _ in range(count):  # one token after the other, to the frame with the largest quotient
        quotient = {f: share[f] / (taken[f] + 0.5) for f in frames if taken[f] < len(members[f])}
        ordered = sorted(quotient, key=lambda f: (-quotient[f], f))
        if len(ordered) > 1:
            margin = min(margin, 1 - quotient[ordered[1]] / quotient[ordered[0]])
        taken[ordered[0]] += 1
    return {i for f in frames for i in queue[f][: taken[f]]}, taken, margin
