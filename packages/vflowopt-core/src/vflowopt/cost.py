"""Public names of :mod:`vflowopt.budgets.cost`."""

from vflowopt.budgets.cost import FORMAT, CostModel, Kind, PruningCost, Setting
from vflowopt.report import BreakEven

__all__ = ["BreakEven", "CostModel", "FORMAT", "Kind", "PruningCost", "Setting"]
