"""Public names of :mod:`vflowopt.components.schedule`."""

from vflowopt.components.schedule import (
    Progressive,
    achieved_retention,
    check_budget,
    default_stages,
    last_ratio,
    stage_widths,
)

__all__ = ["Progressive", "achieved_retention", "check_budget", "default_stages", "last_ratio", "stage_widths"]
