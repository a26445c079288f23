"""The questions that the paper's ablations ask, each as rows of a table."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from vflowopt.ablation.parts import PARTS
from vflowopt.ablation.variants import MAIN_SET, Recipe, Variant
from vflowopt.compare import UNPRUNED, Cell
from vflowopt.strategies.choices import Setting

OBJECTIVES = ("last-token", "first-token", "mean-pooling", "top-3-tokens", "centred-last-token", "next-token")
"""Targets of the paper's Table 9, and two more."""

SAMPLE_COUNTS, EVALUATION_COUNTS = (5, 10, 20, 30, 60), (10, 20, 40, 60)
"""Of the paper's Figure 4."""


@dataclass(frozen=True)
class Plan:
    """How strategies are searched.

    Attributes:
        samples: per search.
        initial: evaluations of a Bayesian search before it proposes any.
        iterations: evaluations after those.
        fixed: variables that no search varies, see :func:`vflowopt.optimize`.
        sample_counts: other numbers of samples, for the study of effort.
        evaluation_counts: other numbers of evaluations, initial ones included, likewise.
    """

    samples: int = 30
    initial: int = 10
    iterations: int = 50
    fixed: Mapping[str, Setting] = field(default_factory=dict)
    sample_counts: Sequence[int] = SAMPLE_COUNTS
    evaluation_counts: Sequence[int] = EVALUATION_COUNTS

    @property
    def recipe(self) -> Recipe:
        """The search that all studies begin with."""
        return Recipe(self.samples, self.initial + self.iterations)

    @property
    def most_samples(self) -> int:
        """How many samples the largest search takes."""
        return max((self.samples, *self.sample_counts))

    def within(self, available: int) -> "Plan":
        """The same with no more samples than there are."""
        counts = tuple(count for count in self.sample_counts if count <= available)
        return replace(self, samples=min(self.samples, available), sample_counts=counts)


@dataclass(frozen=True)
class Line:
    """A row of a study per budget.

    Attributes:
        name: what the table calls it.
        variant: its strategies.
    """

    name: str
    variant: Variant


@dataclass(frozen=True)
class Study:
    """One question on one model.

    Attributes:
        name: as ``--study`` has it.
        lines: rows; the others are compared with the first one.
    """

    name: str
    lines: tuple[Line, ...]

    @property
    def names(self) -> dict[str, str]:
        """What the table calls the methods of :func:`cells_of`, by identity."""
        return {UNPRUNED: UNPRUNED, **{line.variant.name: line.name for line in self.lines}}


@dataclass(frozen=True)
class Scope:
    """What the rows of a study depend on.

    Attributes:
        plan: how strategies are searched.
        sets: names of the sample sets.
        others: labels of the other models.
    """

    plan: Plan
    sets: Collection[str]
    others: Sequence[str]


def _components(scope: Scope) -> Iterator[Line]:
    recipe, fixed = scope.plan.recipe, scope.plan.fixed
    parts = {name: part for name, part in PARTS.items() if part.staged or not set(part.values) <= set(fixed)}
    yield Line("all parts", Variant(recipe))
    for name, part in parts.items():
        yield Line(f"removed: {part.title}", Variant(recipe, removed=name))
    for name, part in parts.items():
        yield Line(f"searched without {part.title}", Variant(replace(recipe, without=name)))


def _objective(scope: Scope) -> Iterator[Line]:
    for objective in OBJECTIVES:
        yield Line(objective, Variant(replace(scope.plan.recipe, objective=objective)))


def _samples(scope: Scope) -> Iterator[Line]:
    for name in scope.sets:
        yield Line(name, Variant(replace(scope.plan.recipe, sample_set=name)))


def _effort(scope: Scope) -> Iterator[Line]:
    plan = scope.plan
    yield Line(_amount(plan.recipe), Variant(plan.recipe))
    for samples in plan.sample_counts:
        recipe = replace(plan.recipe, samples=samples)
        yield Line(_amount(recipe), Variant(recipe))
    for evaluations in plan.evaluation_counts:
        recipe = replace(plan.recipe, evaluations=evaluations)
        yield Line(_amount(recipe), Variant(recipe))


def _amount(recipe: Recipe) -> str:
    return f"{recipe.samples} samples, {recipe.evaluations} evaluations"


def _search(scope: Scope) -> Iterator[Line]:
    recipe = scope.plan.recipe
    yield Line("Bayesian search", Variant(recipe))
    yield Line("Bayesian search without known good starts", Variant(replace(recipe, kind="bayesian without starts")))
    yield Line("random search", Variant(replace(recipe, kind="random")))


def _transfer(scope: Scope) -> Iterator[Line]:
    recipe = scope.plan.recipe
    yield Line("searched for this model", Variant(recipe))
    for other in scope.others:
        yield Line(f"searched for {other}", Variant(recipe, model=other))


STUDIES: Mapping[str, tuple[str, Callable[[Scope], Iterator[Line]]]] = {
    "components": ("parts of the method (paper Tables 6 and 7)", _components),
    "objective": ("target of the objective (paper Table 9)", _objective),
    "samples": ("sample sets (paper Table 8)", _samples),
    "effort": ("numbers of samples and evaluations (paper Figure 4)", _effort),
    "search": ("search method (paper Table 10)", _search),
    "transfer": ("strategies searched for another model", _transfer),
}
"""What each study asks, and its rows."""


def studies_of(
    names: Iterable[str], plan: Plan, sets: Collection[str] = (MAIN_SET,), others: Sequence[str] = ()
) -> list[Study]:
    """The studies of one model.

    Args:
        names: of :data:`STUDIES`.
        plan: how strategies are searched.
        sets: names of the model's sample sets, :data:`MAIN_SET` first.
        others: labels of the other models.
    """
    scope = Scope(plan, sets, others)
    return [Study(name, tuple(dict.fromkeys(STUDIES[name][1](scope)))) for name in names]


def cells_of(model: str, study: Study, budgets: Sequence[float], seeds: int) -> list[Cell]:
    """The cells of a study: unpruned, then budget by budget."""
    return [
        Cell(model, UNPRUNED, None, None),
        *(
            Cell(model, line.variant.name, budget, seed)
            for budget in budgets
            for line in study.lines
            for seed in range(seeds)
        ),
    ]
