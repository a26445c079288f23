"""The parts of the method (paper Tables 6 and 7): a search without one of them, and a strategy without it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vflowopt.components.schedule import Progressive
from vflowopt.strategies.choices import Setting
from vflowopt.strategies.strategy import Strategy
from vflowopt.strategies.variables import schedule_of, strategy_of, values_of


@dataclass(frozen=True)
class Part:
    """A part of the method.

    Attributes:
        title: what to call it, and how it is left out.
        values: variables of the search (:mod:`vflowopt.strategies.variables`) at which it does nothing.
        staged: whether it is the stages inside the decoder; without them one stage before the LLM prunes.
    """

    title: str
    values: Mapping[str, Setting] = field(default_factory=dict)
    staged: bool = False

    def restriction(self, fixed: Mapping[str, Setting]) -> dict[str, Any]:
        """Arguments of a search that does without it, and leaves ``fixed`` variables as they are."""
        return {"stages": (0,) if self.staged else None, "fixed": {**fixed, **self.values}}

    def removed_from(self, strategy: Strategy, budget: float) -> Strategy:
        """The strategy without the part, at the same average retention, and without provenance.

        Raises:
            StrategyError: it has other components than those that the search varies.
        """
        values = {**values_of(strategy), **self.values}
        return strategy_of(values, Progressive.flat(budget) if self.staged else schedule_of(strategy))


PARTS: Mapping[str, Part] = {
    "calibration": Part("calibration (t = 0)", {"threshold": 0.0}),
    "entropy": Part("entropy (alpha = 0)", {"entropy_weight": 0.0}),
    "recycling": Part("recycling (a = 1)", {"cell": 1.0}),
    "stages": Part("later stages", staged=True),
    "diversity": Part("diversity (delta = 0)", {"diversity": 0.0}),
    "mass": Part("mass (gamma = 0)", {"mass": 0.0}),
    "separators": Part("dropped separators (all kept)", {"separators": "keep"}),
    "rescoring": Part("ranking anew by the text's attention", {"rescorer": "none"}),
    "scorer": Part("other scorers (calibrated attention)", {"scorer": "calibrated-attention"}),
}
"""Parts by name; the last five are not in the paper."""
