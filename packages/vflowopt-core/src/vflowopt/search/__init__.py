"""Search of pruning strategies at a fixed average retention (paper Algorithm 1).

``space`` makes every point feasible, ``variables`` says what varies besides the budget's split, ``gp`` and ``proposer``
choose points, ``starts`` begins with known good ones, ``loop`` evaluates, ``journal`` survives crashes, ``api`` is what
users call.
"""

from vflowopt.search.api import optimize, random_search, search
from vflowopt.search.progress import RichProgress, SearchProgress, SearchStep
from vflowopt.search.result import HistoryEntry, OptimizeResult
from vflowopt.strategies.space import SearchSpace

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
