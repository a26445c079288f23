"""What a strategy is composed of: the contract of scorers, schedules, recyclers and masses, and the method's own ones.

Knows arrays, attention and layouts; nothing of plans, models or searches.
"""

from vflowopt.components.context import ScoringContext
from vflowopt.components.contract import Component, ContextRecycler, Merge, Recycler, Schedule, Score, Scorer
from vflowopt.components.mass import Mass, Reduction

__all__ = [
    "Component",
    "ContextRecycler",
    "Mass",
    "Merge",
    "Recycler",
    "Reduction",
    "Schedule",
    "Score",
    "Scorer",
    "ScoringContext",
]
