"""What holds of every pruning plan, whatever made it."""

from itertools import pairwise

import numpy as np

from vflowopt.arrays import Array, HostBools, to_numpy
from vflowopt.plans.plan import PruningPlan, StageMerge
from vflowopt.strategies.strategy import Strategy
from vflowopt.testing.checks import require


def require_valid_plan(plan: PruningPlan, strategy: Strategy) -> None:
    """Counts are exact, stages nested, separators as the strategy says, and tokens are kept, merged or dropped.

    Raises:
        ConformanceError: one of these does not hold.
    """
    kept = [set(to_numpy(stage).tolist()) for stage in plan.kept]
    counts = strategy.schedule.counts(plan.tokens)
    require(tuple(map(len, kept)) == plan.counts == counts, f"a plan keeps {plan.counts}, the schedule says {counts}")
    require(all(later <= earlier for earlier, later in pairwise(kept)), "a later stage keeps what an earlier dropped")
    if strategy.separators != "rank":
        _require_separators(plan, strategy.separators == "keep", kept)
    require(np.isfinite(to_numpy(plan.importance)).all(), "the importance map is not finite")
    require(plan.recycled or not _merged(plan.anchor).any(), "tokens are merged although nothing recycles")
    _require_mass(plan, strategy)
    _require_slots(StageMerge(plan.anchor, plan.weight), set(range(plan.tokens)), kept[0])
    for stage, merge in plan.later.items():
        _require_slots(merge, kept[stage - 1], kept[stage])


def _require_mass(plan: PruningPlan, strategy: Strategy) -> None:
    """Every retained token stands for something, and the plan says what that adds to its logits."""
    stages = plan.counts if strategy.mass is not None and strategy.mass.acts else ()
    for what, values in (("mass", plan.mass), ("bias", plan.bias)):
        found = tuple(map(len, values))
        require(found == stages, f"a plan's {what} is of {found} tokens, not of {stages}")
        require(all(np.isfinite(to_numpy(value)).all() for value in values), f"a {what} is not finite")
    require(all((to_numpy(mass) > 0).all() for mass in plan.mass), "a retained token has no mass")


def _require_separators(plan: PruningPlan, keep: bool, kept: list[set[int]]) -> None:
    """As many separators stay as the strategy says; one token that has a patch stays wherever there is one."""
    separators = set(np.flatnonzero(plan.structural).tolist())
    patches = plan.tokens - len(separators)
    for stage in kept:
        most = len(stage) - min(patches, 1) if keep else max(len(stage) - patches, 0)
        found, wanted = len(stage & separators), min(len(separators), most)
        require(found == wanted, f"a stage of {len(stage)} tokens retains {found} separators, not {wanted}")


def _require_slots(merge: StageMerge, before: set[int], retained: set[int]) -> None:
    """A stage merges only tokens that it found, each into one that it retains, by weights that sum to 1."""
    anchor, weight = to_numpy(merge.anchor), to_numpy(merge.weight)
    carried = anchor >= 0
    require(set(anchor[carried].tolist()) == retained, "anchors are not exactly the tokens that the stage keeps")
    require(not _merged(anchor)[sorted(retained)].any(), "an anchor is merged into another token")
    require(set(np.flatnonzero(carried).tolist()) <= before, "a token is merged that was pruned before")
    require((weight >= 0).all() and (weight[~carried] == 0).all(), "a weight is negative, or a dropped token's not 0")
    totals = np.bincount(anchor[carried], weights=weight[carried], minlength=len(anchor))[sorted(retained)]
    require(np.abs(totals - 1).max(initial=0) <= 1e-5, "the weights merged into a slot do not sum to 1")


def _merged(anchors: Array) -> HostBools:
    """Which tokens go into the slot of another one."""
    anchor = to_numpy(anchors)
    return np.asarray((anchor >= 0) & (anchor != np.arange(len(anchor))), dtype=bool)
