"""Public names of :mod:`vflowopt.components.baselines`."""

from vflowopt.components.baselines import BASELINES, LowResolution, RandomTokens, UniformGrid, spread_order

__all__ = ["BASELINES", "LowResolution", "RandomTokens", "UniformGrid", "spread_order"]
