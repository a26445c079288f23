"""What holds of every pruning plan, whatever made it."""

from itertools import pairwise

import numpy as np

from vflowopt.arrays import to_numpy
from vflowopt.plan import PruningPlan
from vflowopt.strategy import Strategy
from vflowopt.testing.checks import require


def require_valid_plan(plan: PruningPlan, strategy: Strategy) -> None:
    """Counts are exact, stages nested, structural tokens kept, and kept, merged and dropped partition the tokens.

    Raises:
        ConformanceError: one of these does not hold.
    """
    kept = [set(to_numpy(stage).tolist()) for stage in plan.kept]
    anchor, weight = to_numpy(plan.anchor), to_numpy(plan.weight)
    counts = strategy.schedule.counts(plan.tokens)
    require(tuple(map(len, kept)) == plan.counts == counts, f"a plan keeps {plan.counts}, the schedule says {counts}")
    require(all(later <= earlier for earlier, later in pairwise(kept)), "a later stage keeps what an earlier dropped")
    lost = set(np.flatnonzero(plan.structural).tolist()) - kept[-1]
    require(not lost, f"structural tokens {sorted(lost)} are dropped")
    require(np.isfinite(to_numpy(plan.importance)).all(), "the importance map is not finite")
    slots = set(np.unique(anchor[anchor >= 0]).tolist())
    require(slots == kept[0], "anchors are not exactly the tokens that the first stage keeps")
    require(all(anchor[slot] == slot for slot in slots), "an anchor is merged into another token")
    require((weight >= 0).all() and (weight[anchor < 0] == 0).all(), "a weight is negative, or a dropped token's not 0")
    totals = np.bincount(anchor[anchor >= 0], weights=weight[anchor >= 0], minlength=plan.tokens)[sorted(slots)]
    require(np.abs(totals - 1).max(initial=0) <= 1e-5, "the weights merged into a slot do not sum to 1")
    merged = (anchor >= 0) & (anchor != np.arange(plan.tokens))
    require(plan.recycled or not merged.any(), "tokens are merged although nothing recycles")
