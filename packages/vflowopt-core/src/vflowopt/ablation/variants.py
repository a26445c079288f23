"""Ways to come by a strategy: the rows of the paper's ablations."""

from dataclasses import dataclass
from typing import Literal

MAIN_SET = "set 0"
"""The samples that all studies but the one of sample sets search on."""

Kind = Literal["bayesian", "bayesian without starts", "random"]


@dataclass(frozen=True)
class Recipe:
    """How a strategy is searched, model, budget and seed apart.

    Attributes:
        samples: how many of the sample set: the first ones.
        evaluations: how many the search makes.
        sample_set: name of the sample set.
        objective: what the search compares with the unpruned model (paper Eq. 8).
        kind: who chooses what to evaluate; Bayesian searches begin with known good strategies.
        without: a part of :data:`vflowopt.ablation.parts.PARTS` that the search has to do without.
    """

    samples: int
    evaluations: int
    sample_set: str = MAIN_SET
    objective: str = "last-token"
    kind: Kind = "bayesian"
    without: str | None = None

    @property
    def encoded(self) -> tuple[str, int, str]:
        """What its samples' encoding depends on."""
        return self.sample_set, self.samples, self.objective

    @property
    def journal(self) -> str:
        """Identifies the search whatever its number of evaluations: fewer are the beginning of more."""
        parts = f", without {self.without}" if self.without else ""
        return f"{self.kind}, {self.samples} of {self.sample_set}, {self.objective}{parts}"


@dataclass(frozen=True)
class Variant:
    """A strategy for each model, budget and seed.

    Attributes:
        recipe: how it is searched.
        removed: a part that is taken out of what was found; nothing is searched again.
        model: another model that it was searched for; ``None`` for the model that is pruned.
    """

    recipe: Recipe
    removed: str | None = None
    model: str | None = None

    @property
    def name(self) -> str:
        """Identifies it; results are kept by it."""
        found = f"{self.recipe.journal}, {self.recipe.evaluations} evaluations"
        removed = f", {self.removed} removed" if self.removed else ""
        return found + removed + (f", searched for {self.model}" if self.model else "")
