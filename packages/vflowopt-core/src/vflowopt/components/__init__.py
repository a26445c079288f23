"""What a strategy is composed of: the contract of scorers, schedules and recyclers, and the method's own ones.

Knows arrays, attention and layouts; nothing of plans, models or searches.
"""

from vflowopt.components.contract import (
    Component,
    ContextRecycler,
    Merge,
    Recycler,
    Schedule,
    Score,
    Scorer,
    ScoringContext,
)

__all__ = [
    "Component",
    "ContextRecycler",
    "Merge",
    "Recycler",
    "Schedule",
    "Score",
    "Scorer",
    "ScoringContext",
]
