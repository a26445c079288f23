"""Methods that choose tokens one after the other, by loops in float64 from their papers' equations."""

import math

from oracles.vision_methods import distance


def greedy(worth, tokens, count):
    """``worth(chosen)`` gives a score for every token that is left; the order of choice, and the smallest lead."""
    chosen, margin = [], math.inf
    for _ in range(count):
        scores = worth(chosen)
        left = sorted((token for token in range(tokens) if token not in chosen), key=lambda i: (-scores[i], i))
        if len(left) > 1:
            margin = min(margin, scores[left[0]] - scores[left[1]])
        chosen.append(left[0])
    return chosen, margin


def similarities(features):
    vectors = [[float(value) for value in row] for row in features]
    return [[1.0 - distance(a, b) for b in vectors] for a in vectors]


def relevant(attention, features, relevance, count):
    """MMR."""
    weight, like = [float(value) for value in attention], similarities(features)
    least, most = min(weight), max(weight)
    importance = [(value - least) / (most - least) if most > least else 0.0 for value in weight]

    def worth(chosen):
        if not chosen:
            return weight
        return [
            relevance * importance[i] - (1 - relevance) * max(like[i][j] for j in chosen) for i in range(len(weight))
        ]

    return greedy(worth, len(weight), count)


def covering(attention, features, alpha, count):
    """SCOPE."""
    weight, like = [float(value) ** alpha for value in attention], similarities(features)

    def worth(chosen):
        covered = [max([0.0, *(like[j][i] for i in chosen)]) for j in range(len(weight))]
        return [
            weight[i] * math.fsum(max(0.0, like[j][i] - covered[j]) for j in range(len(weight)))
            for i in range(len(weight))
        ]

    return greedy(worth, len(weight), count)
