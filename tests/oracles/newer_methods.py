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


def framed(views):
    """The tokens of each frame, in the order of the frames."""
    return [[i for i, view in enumerate(views.tolist()) if view == frame] for frame in sorted(set(views.tolist()))]


def cosine(a, b):
    """Of two vectors."""
    return float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-300)


def scenes(means, least):
    """FlashVID: the segment of each frame, and how clear the cuts were."""
    alike = [cosine(a, b) for a, b in itertools.pairwise(means)]
    cuts = {i for i, value in enumerate(alike) if value < 0.9}
    margin = min((abs(value - 0.9) for value in alike), default=math.inf)
    others, lead = descending([-value for value in alike], [i for i in range(len(alike)) if i not in cuts])
    missing = min(max(0, least - 1 - len(cuts)), len(others))
    cuts |= set(others[:missing])
    segment = [sum(cut < frame for cut in cuts) for frame in range(len(means))]
    return segment, min(margin, lead)


def webster(sizes, count):
    """How many of ``count`` each frame has, one after the other."""
    taken = [0] * len(sizes)
    for _ in range(count):
        quotient = [size / (n + 0.5) if n < size else -1.0 for size, n in zip(sizes, taken, strict=True)]
        taken[max(range(len(sizes)), key=lambda f: (round(quotient[f], 9), -f))] += 1
    return taken


def representative(attention, features, views, count, least):
    """FlashVID: the tokens that represent their frames, in a frame in the order of choice; how clear it was."""
    values, frames = np.asarray(features, dtype=np.float64), framed(views)
    means = [sum(values[i] for i in frame) / len(frame) for frame in frames]
    segment, margin = scenes(means, least)
    chosen = []
    for number, (frame, quota) in enumerate(zip(frames, webster([len(f) for f in frames], count), strict=True)):
        scene = [mean for mean, own in zip(means, segment, strict=True) if own == segment[number]]
        event = sum(scene) / len(scene)
        weight = {i: float(attention[i]) * max(0.0, float(values[i] @ event)) for i in frame}
        apart = {(i, j): 1 - cosine(values[i], values[j]) for i in frame for j in frame if i != j}
        own = []
        for _ in range(quota):
            nearest = {i: min((apart[i, j] for j in (own or frame) if j != i), default=2.0) for i in frame}
            ordered, _ = descending({i: weight[i] * nearest[i] for i in frame}, [i for i in frame if i not in own])
            if len(ordered) > 1:
                first, second = (weight[i] * nearest[i] for i in ordered[:2])
                margin = min(margin, (first - second) / max(first, 1e-300) if first > 0 else 0.0)
            own.append(ordered[0])
        chosen.append(own)
    return chosen, margin


def grown(features, views, kept, count, similarity, least):
    """FlashVID's merging: of each slot its token's weight in it, {slot: {token: weight}}; how clear it was."""
    values, frames = np.asarray(features, dtype=np.float64), framed(views)
    means = [sum(values[i] for i in frame) / len(frame) for frame in frames]
    segment, margin = scenes(means, least)
    links = []
    for number in range(1, len(frames)):
        before = [j for j in frames[number - 1] if j not in kept]
        if segment[number] != segment[number - 1] or not before:
            continue
        for i in (i for i in frames[number] if i not in kept):
            alike = {j: cosine(values[i], values[j]) for j in before}
            ordered, _ = descending(alike, before)
            links.append((alike[ordered[0]], i, ordered[0]))
            margin = min(margin, abs(alike[ordered[0]] - similarity))
            if alike[ordered[0]] > similarity and len(ordered) > 1:
                margin = min(margin, alike[ordered[0]] - alike[ordered[1]])
    links = sorted(links, key=lambda link: (-link[0], link[1]))
    most = len(values) - count
    if 0 < most < len(links):
        margin = min(margin, links[most - 1][0] - links[most][0])
    parent = {i: j for alike, i, j in links[:most] if alike > similarity}
    trees = {i: [] for i in range(len(values)) if i not in kept and i not in parent}
    for i in range(len(values)):
        root = i
        while root in parent:
            root = parent[root]
        if root in trees:
            trees[root].append(i)
    mean = {root: sum(values[i] for i in members) / len(members) for root, members in trees.items()}
    roots = [[i for i in frame if i in trees] for frame in frames]
    slots, free = [0] * len(frames), count - len(kept)
    for _ in range(free):
        claims = {f: -len(own) if not slots[f] else slots[f] / len(own) for f, own in enumerate(roots)}
        slots[min((f for f, own in enumerate(roots) if slots[f] < len(own)), key=lambda f: (claims[f], f))] += 1
    outcome = {i: {i: 1.0} for i in kept}
    for own, number in zip(roots, slots, strict=True):
        if number:
            groups, lead = peaks({i: mean[i] for i in own}, number)
            margin = min(margin, lead)
            for centre, members in groups.items():
                outcome[centre] = {i: 1 / len(trees[m]) / len(members) for m in members for i in trees[m]}
    return outcome, margin


def peaks(vectors, number):
    """Clusters by density peaks, {centre: members}, and how clear they were."""
    items = list(vectors)
    length = math.sqrt(len(vectors[items[0]]))
    apart = {(i, j): float(np.linalg.norm(vectors[i] - vectors[j])) / length for i in items for j in items}
    near = min(number, 7)
    density = {i: -sum(sorted(apart[i, j] for j in items)[k] ** 2 for k in range(near)) / near for i in items}
    place = {i: place for place, i in enumerate(sorted(items, key=lambda i: (-density[i], i)))}
    margin = (
        math.inf
        if near == 1
        else min((abs(density[i] - density[j]) or 1 for i in items for j in items if i < j), default=1)
    )
    furthest = max(apart.values())
    delta = {i: min((apart[i, j] for j in items if place[j] < place[i]), default=furthest) for i in items}
    worth = {i: density[i] + math.log(max(delta[i], 1e-38)) for i in items}
    centres, _ = descending(worth, items)
    if number < len(items):
        margin = min(margin, worth[centres[number - 1]] - worth[centres[number]])
    centres = centres[:number]
    groups = {centre: [centre] for centre in centres}
    for i in (i for i in items if i not in centres):
        ordered, lead = descending({c: -apart[i, c] for c in centres}, centres)
        margin = min(margin, lead)
        groups[ordered[0]].append(i)
    return groups, margin
