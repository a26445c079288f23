"""What becomes of each visual token, as one number per token."""

import numpy as np

from vflowopt.arrays import HostInts, to_numpy
from vflowopt.plans.plan import PruningPlan, StageMerge

KEPT, RECYCLED, MERGED, DROPPED = 0, 1, 2, 3  # DROPPED + stage


def token_fates(plan: PruningPlan) -> HostInts:
    """What becomes of each token, int64 [N].

    0: kept to the end; 1: kept to the end, and carries recycled tokens; 2: merged into one of those (or into one that a
    later stage drops), at any stage; 3 + s: dropped at stage s.
    """
    merged = plan.is_merged()
    fate = np.full(plan.tokens, KEPT, dtype=np.int64)
    for merge in (StageMerge(plan.anchor, plan.weight), *plan.later.values()):
        anchor = to_numpy(merge.anchor)
        fate[np.unique(anchor[(anchor >= 0) & (anchor != np.arange(plan.tokens))])] = RECYCLED
    for stage in reversed(range(len(plan.kept))):
        gone = np.ones(plan.tokens, dtype=bool)
        gone[to_numpy(plan.kept[stage])] = False
        fate[gone] = DROPPED + stage
    fate[merged] = MERGED
    return fate
