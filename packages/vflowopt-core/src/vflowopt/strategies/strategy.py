"""A strategy: scorer, schedule, recycler and mass composed; it is its own file format."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, SerializeAsAny, model_validator

from vflowopt.components import Component, Mass, Recycler, Schedule, Scorer, ScoringContext
from vflowopt.components.recycle import GridRecycler
from vflowopt.components.schedule import Progressive, check_budget, default_stages
from vflowopt.components.scorer import CalibratedAttention
from vflowopt.components.stage_recycling import StageRecycler
from vflowopt.components.stage_scoring import StageScorer
from vflowopt.discovery.registry import component_types
from vflowopt.errors import StrategyError, named, shown
from vflowopt.files.documents import parse_document, read_text
from vflowopt.files.output import FileKind, Output
from vflowopt.layout import TokenLayout
from vflowopt.plans.competitors import SEPARATORS, Separators
from vflowopt.plans.plan import PruningPlan
from vflowopt.plans.planning import PlanDraft, make_plan
from vflowopt.strategies.provenance import Provenance
from vflowopt.strategies.shipped import PRESET, is_preset, nearest_preset, preset_text
from vflowopt.values import Value

FORMAT: Literal["vflowopt/strategy/1"] = "vflowopt/strategy/1"
STRATEGY_FILE = FileKind.json("a strategy", FORMAT)


def _resolve(kind: str) -> BeforeValidator:
    """Turn ``{"name": ..., **options}`` into the component registered under that name."""

    def resolve(value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        known = rescorer_types() if kind == "rescorer" else component_types(kind)
        name = value.get("name")
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"no {kind} is called {shown(name)}; installed: {', '.join(sorted(known))}")
        return known[name].as_part(dict(value))

    return BeforeValidator(resolve)


class Strategy(Value):
    """What to prune, when and how: the unit of exchange between the search, files and :func:`vflowopt.prune`.

    Attributes:
        format: the file format's version.
        scorer: gives every visual token an importance.
        schedule: says after which layers how many tokens remain.
        recycler: merges what the first stage prunes, or what every stage does; ``None`` drops it.
        mass: says how attention takes account of what retained tokens stand for; ``None``: as one token each.
        rescorer: ranks what is left anew at every stage inside the decoder, by its attention; ``None``: the scorer's
            importance ranks there, too.
        separators: what becomes of separators (:data:`vflowopt.plans.competitors.Separators`). In a file that does not
            say so, ``"keep"``: what was written before there was a choice prunes as it did.
        provenance: where the strategy comes from.
    """

    format: Literal["vflowopt/strategy/1"] = FORMAT
    scorer: Annotated[SerializeAsAny[Scorer], _resolve("scorer")]
    schedule: Annotated[SerializeAsAny[Schedule], _resolve("schedule")]
    recycler: Annotated[SerializeAsAny[Recycler] | None, _resolve("recycler")] = None
    mass: Annotated[SerializeAsAny[Mass] | None, _resolve("mass")] = None
    rescorer: Annotated[SerializeAsAny[StageScorer] | None, _resolve("rescorer")] = None
    separators: Separators = SEPARATORS
    provenance: Provenance | None = None

    @model_validator(mode="after")
    def _check_rescorer(self) -> "Strategy":
        if self.rescorer is not None and isinstance(self.scorer, StageScorer):
            raise ValueError(
                f"scorer {self.scorer.component_name()!r} ranks anew inside the decoder by itself: leave rescorer "
                f"{self.rescorer.component_name()!r} out"
            )
        first = self.schedule.boundaries[0]
        if self.rescorer is not None and first:
            raise ValueError(
                f"rescorer {self.rescorer.component_name()!r} ranks at all stages inside the decoder, and the first is "
                f"before layer {first}: nothing is left to scorer {self.scorer.component_name()!r}; let stages begin "
                f"with 0, or make the rescorer the scorer"
            )
        return self

    @model_validator(mode="after")
    def _check_first_stage(self) -> "Strategy":
        scorer, first = self.scorer, self.schedule.boundaries[0]
        if isinstance(scorer, StageScorer) and first == 0 and not scorer.ranks_before_llm:
            raise ValueError(
                f"scorer {scorer.component_name()!r} ranks tokens by attention inside the decoder, of which there is "
                f"none before the LLM: its stages must be layers from 1 on"
            )
        return self

    @classmethod
    def vflowopt(
        cls,
        *,
        num_layers: int | None = None,
        retention: tuple[float, ...] | None = None,
        budget: float | None = None,
        threshold: float = 0.0,
        entropy_weight: float = 0.0,
        diversity: float = 0.0,
        cell: float | None = None,
        stages: tuple[int, ...] | None = None,
        separators: Separators = SEPARATORS,
    ) -> "Strategy":
        """The method with (t, alpha, a, R1, ..., RS) given, and diversity; ``cell=None`` does not recycle.

        Args:
            num_layers: decoder layers L of the model.
            retention: R1, ..., RS, each relative to the stage before.
            budget: in place of ``retention``, the average retention in (0, 1]: the same relative retention at every
                stage, or, without ``num_layers``, once before the LLM, which has this average at any depth.
            threshold: t.
            entropy_weight: alpha.
            diversity: delta, beyond the paper.
            cell: a.
            stages: decoder layers before which to prune; by default 0, L // 3 and 2 (L // 3).
            separators: what becomes of separators.

        Raises:
            StrategyError: not one of ``retention`` and ``budget``, or no ``num_layers`` where the schedule depends on
                it; or a value is out of its range.
            BudgetError: the budget is outside (0, 1], or layers before the first stage use it up.
        """
        return cls(
            scorer=CalibratedAttention(threshold=threshold, entropy_weight=entropy_weight, diversity=diversity),
            schedule=_progressive(num_layers, retention, budget, stages),
            recycler=None if cell is None else GridRecycler(cell=cell),
            separators=separators,
        )

    @classmethod
    def parse(cls, text: str, origin: str = "the text") -> "Strategy":
        """Read a strategy from JSON text.

        Raises:
            StrategyError: not JSON, of another format or of none, or not a strategy; names wrong fields.
        """
        try:
            return cls.model_validate({"separators": "keep", **parse_document(text, FORMAT)})
        except ValueError as error:
            raise StrategyError(f"{origin} is not a {FORMAT} strategy: {error}; see Strategy.save") from error

    @classmethod
    def load(cls, path: str | Path) -> "Strategy":
        """Read a strategy file.

        Raises:
            StrategyError: the file cannot be read or does not hold a strategy.
        """
        try:
            text = read_text(path)
        except ValueError as error:
            raise StrategyError(
                f"cannot read the strategy file {named(path)}: {error}; give one that vflowopt wrote"
            ) from error
        return cls.parse(text, origin=f"the file {named(path)}")

    @classmethod
    def preset(cls, name: str) -> "Strategy":
        """A published strategy shipped with vflowopt, for example ``"llava-onevision-7b/25"``.

        Raises:
            StrategyError: there is none of that name; lists those that exist.
        """
        return cls.parse(preset_text(name), origin=f"preset {name!r}")

    @classmethod
    def read(cls, source: "Strategy | str | Path") -> "Strategy":
        """A strategy as it is, from the path of its file, or by the name of a preset.

        Args:
            source: a strategy; a path; or a preset's name, with or without ``preset:`` before it. A preset's name is
                never taken for a file: write ``Path(...)`` or ``"./..."`` for a file of that name.

        Raises:
            StrategyError: it is none of these, which names the nearest preset, or the file does not hold a strategy.
        """
        if isinstance(source, Strategy):
            return source
        if isinstance(source, str) and (source.startswith(PRESET) or is_preset(source)):
            return cls.preset(source.removeprefix(PRESET))
        if not isinstance(source, (str, Path)):
            raise StrategyError(
                f"{shown(source)} is no strategy: give a Strategy, the path of a strategy file, or the name of a preset"
            )
        if isinstance(source, str) and not os.path.lexists(source):
            raise StrategyError(
                f"cannot read the strategy file {named(source)}: there is none, and no preset of that name; "
                f"{nearest_preset(source)}"
            )
        return cls.load(source)

    def to_json(self) -> str:
        """The strategy as the text of its file."""
        unused = {name for name in ("mass", "rescorer") if getattr(self, name) is None}
        data = self.model_dump(mode="json", exclude=unused)
        if self.provenance is None:
            del data["provenance"]
        else:
            data["provenance"] = self.provenance.model_dump(mode="json", exclude_none=True)
        return json.dumps(data, indent=1) + "\n"

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the strategy file, whole or not at all.

        Args:
            path: the file; another strategy in it is replaced.
            force: replace whatever is there.

        Returns:
            The path.

        Raises:
            OutputError: it cannot be written, or something else is there.
        """
        return Output.claim(path, STRATEGY_FILE, force=force).write(self.to_json())

    def __repr__(self) -> str:
        """Its components, each with what is not at its default, on one line."""
        fields = ("scorer", "schedule", "recycler", "mass", "rescorer")
        parts = [f"{name}={part}" for name in fields if (part := getattr(self, name)) is not None]
        if self.separators != SEPARATORS:
            parts.append(f"separators={self.separators}")
        return f"Strategy({', '.join(parts)})"

    __str__ = __repr__

    def with_provenance(self, provenance: Provenance) -> "Strategy":
        """The same strategy with another provenance."""
        return self.model_copy(update={"provenance": provenance})

    @property
    def stage_scorer(self) -> StageScorer | None:
        """What ranks at stages inside the decoder by its attention, if anything does."""
        ranking = self.rescorer or self.scorer
        return ranking if isinstance(ranking, StageScorer) else None

    def average_retention(self, num_layers: int) -> float:
        """Average retention of a decoder with ``num_layers`` layers (paper Eq. 5)."""
        return self.schedule.average_retention(num_layers)

    def plan(self, importance: Any, layout: TokenLayout, context: ScoringContext | None = None) -> PruningPlan:
        """The plan for one unit with this importance [N]; see :func:`vflowopt.plans.planning.make_plan`."""
        counts = self.schedule.counts(layout.tokens)
        return make_plan(
            importance, layout, self.schedule.boundaries, counts, self.recycler, context, self.mass, self.separators
        )

    def draft(
        self,
        importance: Any,
        layout: TokenLayout,
        context: ScoringContext | None = None,
        counts: Sequence[int] | None = None,
        *,
        wait: bool = True,
    ) -> PlanDraft:
        """The plan as far as it can be made before the LLM.

        That is all of it, unless tokens are ranked anew at every stage, or the recycler merges at every stage. The
        schedule's counts for a unit of this size are met, unless others are given
        (:func:`vflowopt.plans.sharing.counts_of`). For ``wait`` see :meth:`vflowopt.plans.planning.PlanDraft.start`.
        """
        boundaries = self.schedule.boundaries
        counts = self.schedule.counts(layout.tokens) if counts is None else counts
        draft = PlanDraft.start(
            importance, layout, boundaries, counts, self.recycler, context, self.mass, self.separators, wait=wait
        )
        known = self.stage_scorer is None and not isinstance(self.recycler, StageRecycler)
        while not draft.plan.is_complete and (known or boundaries[draft.stage] == 0 or not draft.prunes_next):
            draft = draft.decide()
        return draft


def _progressive(
    num_layers: int | None, retention: tuple[float, ...] | None, budget: float | None, stages: tuple[int, ...] | None
) -> Progressive:
    if (retention is None) == (budget is None):
        raise StrategyError(f"give either retention or budget; got {shown(retention)} and {shown(budget)}")
    if retention is not None and stages is not None:
        return Progressive(stages=stages, retention=retention)
    if budget is not None and num_layers is None and stages is None:
        return Progressive.flat(budget)
    if num_layers is None:
        raise StrategyError("give num_layers, for example 28: the schedule depends on how many layers the decoder has")
    chosen = default_stages(num_layers) if stages is None else stages
    if budget is None:
        return Progressive(stages=chosen, retention=retention)
    return Progressive.geometric(check_budget(budget), tuple(dict.fromkeys(chosen)), num_layers)


def rescorer_types() -> dict[str, type[StageScorer]]:
    """The installed scorers that rank inside the decoder, by name."""
    return {name: kind for name, kind in component_types("scorer").items() if issubclass(kind, StageScorer)}


def components_of(strategy: Strategy) -> tuple[Component, ...]:
    """The strategy's components in the order in which they act."""
    parts = (strategy.scorer, strategy.schedule, strategy.recycler, strategy.mass, strategy.rescorer)
    return tuple(part for part in parts if part is not None)
