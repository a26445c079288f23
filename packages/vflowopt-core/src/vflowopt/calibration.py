"""Public names of :mod:`vflowopt.budgets.calibration`."""

from vflowopt.budgets.calibration import CalibratingAdapter, calibrating, prune_guarded, usual_strategies

__all__ = ["CalibratingAdapter", "calibrating", "prune_guarded", "usual_strategies"]
