"""The scorers and rescorers between which a search chooses, and which of its variables mean something to each."""

from collections.abc import Mapping
from dataclasses import dataclass

from vflowopt.components import Scorer
from vflowopt.components.scorer import CalibratedAttention
from vflowopt.components.stage_scoring import StageScorer
from vflowopt.errors import StrategyError
from vflowopt.methods.divprune import DivPrune
from vflowopt.methods.fastv import FastV
from vflowopt.methods.mmr import MMR
from vflowopt.methods.scope import SCOPE

Setting = float | str
"""Value of a variable: a number, or a name."""


@dataclass(frozen=True)
class ScorerChoice:
    """A scorer and its options as variables.

    Attributes:
        kind: the component.
        options: variables by the name of the option that each sets.
        opposite: options that are 1 less the variable.
    """

    kind: type[Scorer]
    options: Mapping[str, str]
    opposite: frozenset[str] = frozenset()

    def scorer(self, values: Mapping[str, Setting]) -> Scorer:
        """The scorer with its options as the variables say."""
        options = {option: values[variable] for option, variable in self.options.items()}
        return self.kind.model_validate(
            {option: 1.0 - float(value) if option in self.opposite else value for option, value in options.items()}
        )

    def values(self, scorer: Scorer) -> dict[str, float]:
        """The variables of a scorer of this kind.

        Raises:
            StrategyError: it has other options than those that the search varies.
        """
        options = {option: getattr(scorer, option) for option in self.options}
        if scorer != self.kind.model_validate(options):
            raise StrategyError(f"the search varies only {', '.join(self.options) or 'no option'} of {scorer!r}")
        return {
            self.options[option]: 1.0 - value if option in self.opposite else value for option, value in options.items()
        }


SCORERS: Mapping[str, ScorerChoice] = {
    choice.kind.component_name(): choice
    for choice in (
        ScorerChoice(
            CalibratedAttention,
            {"threshold": "threshold", "entropy_weight": "entropy_weight", "diversity": "diversity"},
        ),
        ScorerChoice(DivPrune, {}),
        ScorerChoice(MMR, {"relevance": "diversity"}, frozenset({"relevance"})),
        ScorerChoice(SCOPE, {}),
    )
}
"""By name. All families offer what they need; MMR and SCOPE use a class token's attention where there is one."""

NO_RESCORER = "none"

RESCORERS: Mapping[str, StageScorer | None] = {NO_RESCORER: None, "fastv": FastV()}
"""What may rank at stages inside the decoder, by name; "none" leaves it to the scorer."""

SCORER_VARIABLES = ("threshold", "entropy_weight", "diversity")
"""Variables that mean something to some scorers only."""


def means_something(variable: str, scorer: Setting) -> bool:
    """Whether a variable means something where this scorer was chosen."""
    return variable not in SCORER_VARIABLES or variable in SCORERS[str(scorer)].options.values()
