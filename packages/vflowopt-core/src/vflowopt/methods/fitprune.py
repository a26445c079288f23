"""FitPrune: a pruning recipe per decoder layer, fitted to the attention that a few samples give and receive.

Ye et al., "Fit and Prune: Fast and Training-free Visual Token Pruning for Multi-modal Large Language Models", AAAI
2025, arXiv 2409.10197; code: ywh187/FitPrune.

With a(q, i) the maximum over heads of the attention that token i gets from q, visual token i receives
s_i = mean of a(v, i) over visual tokens v (self-attention) and c_i = mean of a(t, i) over the text t after the image
(cross-attention). After every layer the recipe's number of tokens with the lowest product s_i * c_i is dropped.

The recipe: for a tolerance alpha, a layer drops the tokens that are both among the weakest by s and among the weakest
by c, as many of either as leave at least the share 1 - alpha of the layer's unpruned sum of s, or of c. How many that
are on average over samples makes the recipe, and alpha is found by bisection, so that the recipe meets the budget.

What differs: the public code measures a budget in FLOPs, here it is the average retention, met exactly by a mean of
the two recipes that the bisection ends with. It runs the model anew for every alpha, so that later layers see the
effect of earlier pruning; here attention is observed once, unpruned, and the recipe is found from it alone. It drops a
token inside the layer that ranks it, before its MLP; here the token leaves before the next layer. Shares are found
from tokens that have a patch, without row separators.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from vflowopt.arrays import Array, HostBools
from vflowopt.components.schedule import Progressive, check_budget
from vflowopt.components.stage_scoring import FittedScorer, ReceivedAttention, StageContext
from vflowopt.errors import BudgetError, InputError

Floats = npt.NDArray[np.float64]
_BISECTIONS = 40


class FitPrune(FittedScorer):
    """Self-attention times cross-attention received in the layer before each stage, maximum over heads."""

    name: Literal["fitprune"] = "fitprune"

    def rescore(self, context: StageContext) -> Array:
        """See :meth:`StageScorer.rescore`."""
        own, cross = received(context)
        return own * cross

    def default_stages(self, num_layers: int) -> tuple[int, ...]:
        """After every layer but the last."""
        return tuple(range(1, num_layers))

    def fit_schedule(self, seen: Sequence[ReceivedAttention], budget: float) -> Progressive:
        """See :func:`fit`."""
        return fit(seen, budget)


def received(context: StageContext) -> tuple[Array, Array]:
    """What one unit receives in the layer before: s and c, float32 [N] each.

    Both are up to a factor where queries were pruned, which count nothing; a ranking does not depend on it.
    """
    visual, text = context.visual, context.text
    own = context.received(visual, heads="max") / len(visual)
    return own, context.received(text, heads="max") / len(text)


def fit(seen: Sequence[ReceivedAttention], budget: float) -> Progressive:
    """The recipe for a budget, as a schedule for :class:`FitPrune`.

    Args:
        seen: of every decoder layer, for some units.
        budget: average retention in (0, 1], met exactly.

    Raises:
        InputError: no units.
        BudgetError: even dropping everything after the first layer retains more; names the least.
    """
    seen = [unit.of_patches() for unit in seen if not unit.structural.all()]
    if not seen:
        raise InputError("there is nothing to fit FitPrune's recipe to; pass about 10 samples with images")
    layers, target = seen[0].own.shape[0], check_budget(budget)
    low, high = 0.0, 1.0
    loose, tight = np.ones(layers), recipe(seen, 1.0)
    if tight.mean() > target:
        raise BudgetError(
            f"an average retention of {budget} cannot be met by FitPrune on these samples: it prunes from layer 1 of "
            f"{layers} on; the smallest feasible budget is {tight.mean():.4f}"
        )
    for _ in range(_BISECTIONS):
        alpha = (low + high) / 2
        curve = recipe(seen, alpha)
        if curve.mean() >= target:
            low, loose = alpha, curve
        else:
            high, tight = alpha, curve
    share = 0.0 if loose.mean() == tight.mean() else (loose.mean() - target) / (loose.mean() - tight.mean())
    return _schedule(loose + share * (tight - loose))


def recipe(seen: Sequence[ReceivedAttention], alpha: float) -> Floats:
    """Share of the visual tokens with which each layer runs, mean over units: float64 [layers], not increasing.

    No unit has separators.
    """
    return np.asarray(np.mean([_alive(unit, alpha) for unit in seen], axis=0), dtype=np.float64)


def _alive(unit: ReceivedAttention, alpha: float) -> Floats:
    """The same of one unit."""
    alive = np.ones(len(unit.structural), dtype=bool)
    shares = [1.0]
    for own, cross in zip(unit.own[:-1], unit.cross[:-1], strict=True):
        alive &= ~(_weakest(own, alive, alpha) & _weakest(cross, alive, alpha))
        shares.append(float(alive.mean()))
    return np.array(shares)


def _weakest(received: Floats, alive: HostBools, alpha: float) -> HostBools:
    """The most of the weakest tokens without which the others hold the share 1 - alpha of what all tokens held.

    Never the strongest of those that are left.
    """
    tokens = np.flatnonzero(alive)
    tokens = tokens[np.argsort(received[tokens], kind="stable")]
    left = received[tokens].sum() - received[tokens].cumsum()
    spared = np.zeros(len(alive), dtype=bool)
    spared[tokens[:-1][left[:-1] >= (1 - alpha) * received.sum()]] = True
    return spared


def _schedule(curve: Floats) -> Progressive:
    """Stages where the curve falls; one that keeps everything if it never does."""
    falls = [layer for layer, (before, after) in enumerate(itertools.pairwise(curve), start=1) if after < before]
    stages = falls or [1]
    return Progressive.from_cumulative(stages, [float(curve[layer]) for layer in stages])
