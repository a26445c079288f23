"""Search of pruning strategies at a fixed average retention (paper Algorithm 1).

``space`` makes every point feasible, ``gp`` and ``proposer`` choose points, ``journal`` survives crashes, ``optimize``
runs the loop.
"""

from vflowopt.search.optimize import optimize, random_search, search
from vflowopt.search.progress import RichProgress, SearchProgress, SearchStep
from vflowopt.search.result import HistoryEntry, OptimizeResult
from vflowopt.search.space import SearchSpace

__all__ = [
    "HistoryEntry",
    "OptimizeResult",
    "RichProgress",
    "SearchProgress",
    "SearchSpace",
    "SearchStep",
    "optimize",
    "random_search",
    "search",
]
