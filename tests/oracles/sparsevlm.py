"""SparseVLM's rank rule and its clusters, written from the paper in loops over float64."""

import itertools
import math
from dataclasses import dataclass

import numpy as np


def rank_of(matrix):
    """Singular values that float32 tells from 0, found as roots of the Gram matrix's eigenvalues.

    Returns the rank, and how far from the threshold the nearest singular value is, as a factor's logarithm.
    """
    matrix = np.array(matrix, dtype=np.float64)
    values = [math.sqrt(max(0.0, value)) for value in np.linalg.eigvalsh(matrix @ matrix.T)]
    threshold = max(values) * max(matrix.shape) * 2.0**-23
    margin = min(abs(math.log(max(value, 1e-300) / threshold)) for value in values)
    return sum(1 for value in values if value > threshold), margin


def shares(floors, stages, scale):
    """What each stage leaves: lambda (L_v - rank) are dropped, of one token's worth of N."""
    left, found = 1.0, []
    for stage in stages:
        redundant = left - floors[stage - 1]
        if redundant > 0:
            left = left - scale * redundant
        found.append(left)
    return found


def average(found, stages, layers):
    """Mean over layers of the share that runs in them."""
    total = 0.0
    for layer in range(layers):
        begun = [share for share, stage in zip(found, stages, strict=True) if stage <= layer]
        total += begun[-1] if begun else 1.0
    return total / layers


def numbers(lost, free, tau, theta):
    """T and C: the least C with which D = lost + C pruned tokens need C slots; every C is tried."""
    for clusters in range(free + 1):
        pruned = lost + clusters
        recycled = min(pruned, int(tau * pruned) + 1)
        if min(free, recycled, int(theta * recycled) + 1) <= clusters:
            return recycled, clusters
    raise AssertionError


@dataclass
class Clusters:
    """Centres in order, the cluster of each vector, and how clearly both were decided."""

    centres: list
    own: list
    margin: float


def cluster(vectors, count):
    """DPC-KNN. Vectors come with the one that wins a tie of densities first."""
    points = [[float(value) for value in vector] for vector in vectors]
    size, width = len(points), len(points[0])
    distance = [[math.dist(a, b) / math.sqrt(width) for b in points] for a in points]
    log_density = []
    for i in range(size):
        nearest = sorted(distance[i])[:count]
        log_density.append(-sum(value * value for value in nearest) / count)
    densest = sorted(range(size), key=lambda i: (-log_density[i], i))
    place = {i: number for number, i in enumerate(densest)}
    score = []
    for i in range(size):
        above = [distance[i][j] for j in range(size) if place[j] < place[i]]
        delta = min(above) if above else max(max(row) for row in distance)
        score.append(log_density[i] + (math.log(delta) if delta > 0 else -math.inf))
    best = sorted(range(size), key=lambda i: (-score[i], i))
    centres = best[:count]
    margin = score[best[count - 1]] - score[best[count]] if count < size else math.inf
    gaps = [log_density[a] - log_density[b] for a, b in itertools.pairwise(densest)]
    margin = min([margin, *(gap for gap in gaps if gap > 0)])  # tokens that are each other's neighbours do tie
    own = []
    for i in range(size):
        if i in centres:
            own.append(centres.index(i))
            continue
        ranked = sorted(range(count), key=lambda c: (distance[i][centres[c]], c))
        own.append(ranked[0])
        if count > 1:
            margin = min(margin, distance[i][centres[ranked[1]]] - distance[i][centres[ranked[0]]])
    return Clusters(centres, own, margin)


@dataclass
class Stage:
    """Outcome of one stage: who is retained, whose slot carries whom (-1: nobody's), with which share; see Clusters."""

    retained: set
    anchor: dict
    weight: dict
    margin: float


def recycle(worth, alive, count, states, tau=0.3, theta=0.1):
    """One stage.

    Args:
        worth: importance of each token.
        alive: tokens that are left.
        count: to retain.
        states: hidden state of each token.
        tau, theta: shares.
    """
    ranked = sorted(alive, key=lambda token: (-worth[token], token))
    recycled, clusters = numbers(len(alive) - count, count, tau, theta)
    kept = count - clusters
    anchor, weight, margin = dict.fromkeys(alive, -1), dict.fromkeys(alive, 0.0), 1.0
    for token in ranked[:kept]:
        anchor[token], weight[token] = token, 1.0
    if clusters:
        pool = ranked[kept : kept + recycled]
        found = cluster([states[token] for token in pool], clusters)
        margin = found.margin
        for token, own in zip(pool, found.own, strict=True):
            anchor[token] = pool[found.centres[own]]
            weight[token] = 1 / found.own.count(own)
    return Stage({token for token, slot in anchor.items() if slot == token}, anchor, weight, margin)


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
