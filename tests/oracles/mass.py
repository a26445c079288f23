"""What retained tokens stand for, token by token in float64."""

import math

import numpy as np


def masses(plan, features, importances, weighted=False):
    """Mass of the tokens of every stage, by token, and how clearly the nearest tokens were the nearest.

    Args:
        plan: on the host.
        features: [N, D].
        importances: for every stage the importance [N] that it ranked by.
        weighted: whether a token counts by its importance relative to that of the token that takes it over.

    Returns:
        A dictionary {token: mass} per stage; the smallest difference between the best and the second best cosine.
    """
    left = dict.fromkeys(range(plan.tokens), 1.0)
    found, margin = [], math.inf
    for stage, kept in enumerate(plan.kept):
        kept, merge = [int(token) for token in kept], plan.merge_at(stage)
        after = {token: left[token] for token in kept}
        for token in left.keys() - set(kept):
            taker = int(merge.anchor[token]) if merge is not None else -1
            if taker < 0 and not plan.structural[token]:
                taker, apart = _nearest(features, token, [other for other in kept if not plan.structural[other]])
                margin = min(margin, apart)
            if taker >= 0:
                after[taker] += left[token] * (_share(importances[stage], token, taker) if weighted else 1.0)
        found.append(after)
        left = after
    return found, margin


def _nearest(features, token, others):
    if not others:
        return -1, math.inf
    cosines = sorted(((_cosine(features[token], features[other]), -other) for other in others), reverse=True)
    apart = cosines[0][0] - cosines[1][0] if len(cosines) > 1 else math.inf
    return -cosines[0][1], apart


def _cosine(one, other):
    one, other = np.float64(one), np.float64(other)
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / lengths) if lengths else 0.0


def _share(importance, token, taker):
    own, other = max(float(importance[token]), 0.0), float(importance[taker])
    return min(1.0, own / other) if other > 0 else 1.0
