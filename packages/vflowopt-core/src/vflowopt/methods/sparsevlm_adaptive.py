"""SparseVLM with numbers of tokens by rank, fitted to a few samples.

Zhang et al., "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference", ICML 2025,
arXiv 2410.04417; code: Gumpest/SparseVLMs, whose first version counts by rank. Tokens are rated as in
:mod:`vflowopt.methods.sparsevlm`.

With P the attention that the L_v visual tokens of a layer get from the raters, mean over heads [raters, L_v], a layer
drops lambda (L_v - rank(P)) of them: what exceeds the rank is held to be redundant. As in the public code the rank
counts the singular values above s max(raters, L_v) eps, s being the largest and eps that of float32. It never exceeds
the number of raters, a few per cent of L_v, which neither paper nor code does anything about: lambda decides how much
is dropped, the rank how much is left at least, and by how much layers differ.

What differs: the paper counts on each image anew, here all counts are known before the forward. So ranks are observed
on a few samples, unpruned, and averaged as shares of N. With y_b the share that runs before a stage at layer b, and r_b
that share of ranks in the layer before it, the stage leaves

    y_b - lambda max(0, y_b - r_b),

and lambda, one for all stages, is found by bisection, so that the average retention is the budget. Ranks are shares of
the tokens that have a patch, without row separators. The public code has a factor and an offset of the rank per layer
and budget instead of a lambda.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from vflowopt.arrays import Array, HostInts, to_numpy
from vflowopt.components.schedule import Progressive, check_budget
from vflowopt.components.stage_scoring import FittedScorer, ReceivedAttention, StageContext
from vflowopt.errors import BudgetError, InputError
from vflowopt.methods.sparsevlm import SparseVLM, raters
from vflowopt.methods.sparsevlm_recycler import DensityPeaks

_BISECTIONS = 60
ROUNDING = 1e-12
"""By which a budget may fall below the least one."""


class AdaptiveSparseVLM(FittedScorer):
    """Attention received from the raters, as :class:`SparseVLM`; what each stage keeps is fitted to its rank.

    Attributes:
        every_layer: prune after every decoder layer but the last, as the paper describes it; by default where the
            public code prunes.
    """

    name: Literal["sparsevlm-adaptive"] = "sparsevlm-adaptive"
    every_layer: bool = False

    fits_to_ranks: ClassVar[bool] = True

    @property
    def usual_recycler(self) -> DensityPeaks:
        """See :attr:`SparseVLM.usual_recycler`."""
        return SparseVLM().usual_recycler

    def rescore(self, context: StageContext) -> Array:
        """See :meth:`SparseVLM.rescore`."""
        return SparseVLM().rescore(context)

    def default_stages(self, num_layers: int) -> tuple[int, ...]:
        """After every layer but the last, or those of :class:`SparseVLM`."""
        return tuple(range(1, num_layers)) if self.every_layer else SparseVLM().default_stages(num_layers)

    def fit_schedule(self, seen: Sequence[ReceivedAttention], budget: float) -> Progressive:
        """See :func:`fit`."""
        return fit(seen, budget, self.default_stages(_layers(seen)))


def chosen_texts(context: StageContext) -> HostInts:
    """Positions of the raters: int64 [raters], on the host. For samples that are observed; pruning never calls it."""
    return context.text[to_numpy(raters(context)) > 0]


def rank(context: StageContext, chosen: HostInts) -> int:
    """Rank of the attention [raters, visual tokens] of the layer before, mean over heads; row separators left out.

    Args:
        context: one unit.
        chosen: see :func:`chosen_texts`.
    """
    rows = [to_numpy(context.received(chosen[index : index + 1])) for index in range(len(chosen))]
    received = np.stack(rows).astype(np.float32)[:, ~context.layout.structural]
    return int(np.linalg.matrix_rank(received))


def fit(seen: Sequence[ReceivedAttention], budget: float, stages: Sequence[int]) -> Progressive:
    """The schedule for a budget.

    Args:
        seen: of every decoder layer, for some units, with ranks.
        budget: average retention in (0, 1], met up to rounding.
        stages: decoder layers before which to prune, from 1 on.

    Raises:
        InputError: no units.
        BudgetError: even dropping all that exceeds the rank retains more; names the least.
    """
    layers, target = _layers(seen), check_budget(budget)
    floors = np.mean([_floor(unit) for unit in seen], axis=0)

    def schedule(scale: float) -> Progressive:
        return Progressive.from_cumulative(stages, _shares(floors, stages, scale))

    least = schedule(1.0).average_retention(layers)
    if least > target + ROUNDING:
        raise BudgetError(
            f"an average retention of {budget} cannot be met by SparseVLM's ranks on these samples: it prunes from "
            f"layer {stages[0]} of {layers} on, and never below the rank; the smallest feasible budget is {least:.4f}"
        )
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if schedule(middle).average_retention(layers) >= target else (low, middle)
    return schedule(low)


def _shares(floors: npt.NDArray[np.float64], stages: Sequence[int], scale: float) -> list[float]:
    """Share of the visual tokens after each stage."""
    shares, alive = [], 1.0
    for stage in stages:
        alive -= scale * max(0.0, alive - float(floors[stage - 1]))
        shares.append(alive)
    return shares


def _floor(unit: ReceivedAttention) -> npt.NDArray[np.float64]:
    """Ranks of one unit as shares of its tokens that have a patch: float64 [layers]."""
    assert unit.ranks is not None
    return np.asarray(unit.ranks / max((~unit.structural).sum(), 1), dtype=np.float64)


def _layers(seen: Sequence[ReceivedAttention]) -> int:
    if not seen:
        raise InputError("there is nothing to fit SparseVLM's numbers to; pass about 10 samples with images")
    return int(seen[0].own.shape[0])
