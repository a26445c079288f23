"""Strategies of one search over a range of budgets: one for any budget in between, and its own file format."""

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import Field, model_validator

from vflowopt.components.schedule import check_budget
from vflowopt.errors import BudgetError, StrategyError, named
from vflowopt.files.documents import parse_document, read_text
from vflowopt.files.output import FileKind, Output
from vflowopt.strategies.provenance import Provenance
from vflowopt.strategies.rescaling import at_budget
from vflowopt.strategies.shipped import is_preset
from vflowopt.strategies.strategy import Strategy
from vflowopt.values import Value

FORMAT: Literal["vflowopt/front/1"] = "vflowopt/front/1"
FRONT_FILE = FileKind.json("a front of strategies", FORMAT)
ROUNDING = 1e-6
"""Budgets closer than this are one."""


class StrategyFront(Value):
    """Strategies by falling average retention, as ``vflowopt optimize --budgets`` writes them.

    Attributes:
        format: the file format's version.
        num_layers: decoder layers L of the model that it was searched for.
        strategies: one or more, each with less average retention than the one before.

    Raises:
        StrategyError: no strategies, or not in this order, or one that does not fit the layers.
    """

    format: Literal["vflowopt/front/1"] = FORMAT
    num_layers: int = Field(ge=1)
    strategies: tuple[Strategy, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_order(self) -> "StrategyFront":
        for before, after in itertools.pairwise(self.budgets):
            if after > before - ROUNDING:
                raise ValueError(f"strategies must retain less and less on average, got {after:g} after {before:g}")
        return self

    @property
    def budgets(self) -> tuple[float, ...]:
        """Average retention of each strategy, falling."""
        return tuple(strategy.average_retention(self.num_layers) for strategy in self.strategies)

    def at(self, budget: float, num_layers: int | None = None) -> Strategy:
        """The strategy for any budget between the largest and the smallest one.

        It is the one whose budget has the nearest ratio to this one, its stage split brought to the budget.

        Args:
            budget: average retention in (0, 1].
            num_layers: decoder layers of the model, if it is of another depth than the front's.

        Raises:
            BudgetError: the budget lies outside the front; names both ends.
        """
        budgets, wanted, layers = self.budgets, check_budget(budget), num_layers or self.num_layers
        if not budgets[-1] - ROUNDING <= wanted <= budgets[0] + ROUNDING:
            raise BudgetError(
                f"the front was searched for average retentions from {budgets[-1]:.4g} to {budgets[0]:.4g}, not "
                f"{wanted:g}; give one of these, or search with --budgets that reach it"
            )
        nearest = min(range(len(budgets)), key=lambda index: abs(math.log(budgets[index] / wanted)))
        found = self.strategies[nearest]
        if layers == self.num_layers and abs(budgets[nearest] - wanted) <= ROUNDING:
            return found
        origin = found.provenance or Provenance()
        fitted = at_budget(
            found.with_provenance(origin.model_copy(update={"num_layers": self.num_layers})), wanted, layers
        )
        # Its score is of another budget.
        return fitted.with_provenance(
            origin.model_copy(update={"budget": wanted, "num_layers": layers, "score": None, "requested": None})
        )

    def __iter__(self) -> Iterator[Strategy]:  # type: ignore[override]  # pydantic's would be of fields
        """The strategies, by falling budget."""
        return iter(self.strategies)

    @classmethod
    def parse(cls, text: str, origin: str = "the text") -> "StrategyFront":
        """Read a front from JSON text.

        Raises:
            StrategyError: not JSON, of another format or of none, or not a front; names wrong fields.
        """
        try:
            return cls.model_validate(parse_document(text, FORMAT))
        except ValueError as error:
            raise StrategyError(f"{origin} is not a {FORMAT} front of strategies: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> "StrategyFront":
        """Read the file of a front.

        Raises:
            StrategyError: the file cannot be read or does not hold a front.
        """
        try:
            text = read_text(path)
        except ValueError as error:
            raise StrategyError(f"cannot read the file {named(path)}: {error}; give one that vflowopt wrote") from error
        return cls.parse(text, origin=f"the file {named(path)}")

    @classmethod
    def is_in(cls, path: str | Path) -> bool:
        """Whether a file states this format; a file that cannot be read does not."""
        try:
            parse_document(read_text(path), FORMAT)
        except ValueError:
            return False
        return True

    def to_json(self) -> str:
        """The front as the text of its file."""
        strategies = [json.loads(strategy.to_json()) for strategy in self.strategies]
        data = {"format": self.format, "num_layers": self.num_layers, "strategies": strategies}
        return json.dumps(data, indent=1) + "\n"

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the file, whole or not at all.

        Args:
            path: the file; another front in it is replaced.
            force: replace whatever is there.

        Returns:
            The path.

        Raises:
            OutputError: it cannot be written, or something else is there.
        """
        return Output.claim(path, FRONT_FILE, force=force).write(self.to_json())


Stored: TypeAlias = Strategy | StrategyFront | str | Path
"""A strategy or a front; the path of its file; or the name of a preset."""


def read_stored(source: Stored) -> Strategy | StrategyFront:
    """What a file or preset holds: a strategy or a front; either as it is.

    Raises:
        StrategyError: there is no such file or preset, or it holds neither.
    """
    if isinstance(source, StrategyFront):
        return source
    if isinstance(source, str | Path) and not is_preset(source) and StrategyFront.is_in(source):
        return StrategyFront.load(source)
    return Strategy.read(source)


def strategy_at(source: Stored, budget: float, num_layers: int) -> Strategy:
    """What a source holds for a budget: of a front the strategy there, of a strategy itself, brought to the budget.

    Args:
        source: what holds it.
        budget: average retention in (0, 1].
        num_layers: decoder layers of the model.

    Raises:
        StrategyError: there is no such file or preset, or it holds neither; or its schedule cannot be changed.
        BudgetError: the front does not reach the budget, or the stages leave no room for it.
    """
    strategy = read_stored(source)
    if isinstance(strategy, StrategyFront):
        return strategy.at(budget, num_layers)
    origin = strategy.provenance or Provenance()
    if origin.num_layers == num_layers and abs(strategy.average_retention(num_layers) - check_budget(budget)) <= 1e-9:
        return strategy
    update = {"budget": float(budget), "num_layers": num_layers, "score": None, "requested": None}
    return at_budget(strategy, budget, num_layers).with_provenance(origin.model_copy(update=update))
