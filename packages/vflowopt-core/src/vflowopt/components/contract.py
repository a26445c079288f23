"""What a strategy is composed of: small frozen values with behaviour, found by name.

A component is a pydantic model whose ``name`` field is a ``Literal``; its other fields are its options and, as they
stand, its entry in a strategy file. Core components are always there; others come from plugins through the
``vflowopt_components`` hook.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from vflowopt.arrays import Array
from vflowopt.components.context import ScoringContext
from vflowopt.errors import InputError, PluginError
from vflowopt.layout import TokenLayout
from vflowopt.values import Value


class Component(Value, ABC):
    """Base of scorers, schedules, recyclers and masses. Subclasses declare ``name: Literal["..."] = "..."``."""

    kind: ClassVar[str]
    """The field of a strategy that the component fills: "scorer", "schedule", "recycler" or "mass"."""

    vectorises: ClassVar[bool] = False
    """Whether an adapter may call it once for several units, by ``torch.func.vmap``: it computes through the array
    API alone, changes no array in place, takes nothing from the host but what follows from the layout, and looks
    at no value. Otherwise it is called for one unit after the other. Every class says so for itself: what inherits from
    one that does may look at values."""

    @property
    def is_vectorised(self) -> bool:
        """Whether the component's own class says :attr:`vectorises`."""
        return bool(vars(type(self)).get("vectorises", False))

    @classmethod
    def component_name(cls) -> str:
        """The name under which strategy files refer to the component.

        Raises:
            PluginError: the class declares no ``name`` with a default.
        """
        name = cls.model_fields["name"].default if "name" in cls.model_fields else None
        if not isinstance(name, str):
            raise PluginError(f'{cls.__name__} must declare its name: name: Literal["..."] = "..."')
        return name

    def __str__(self) -> str:
        """Name and options other than the defaults, on one line."""
        fields = type(self).model_fields
        told = [
            f"{name}={value!r}"
            for name, field in fields.items()
            if name != "name" and (value := getattr(self, name)) != field.default
        ]
        return f"{self.component_name()}({', '.join(told)})"

    @property
    def needs(self) -> frozenset[str]:
        """What the component reads of a unit's :class:`ScoringContext`; adapters refuse what they cannot give.

        "attention", "entropy", "class-attention", "saliency", "layer-attention", "keys", "values", "features", "text";
        of scorers that rank inside the decoder also "decoder-attention"
        (:class:`vflowopt.components.stage_scoring.StageScorer`).
        """
        return frozenset()

    def class_attention_layers(self, depth: int) -> int:  # noqa: ARG002
        """Of how many vision layers the component reads the class attention: adapters capture it in no others.

        Args:
            depth: vision layers up to the observed one, which is one of them (:attr:`ScoringContext.vision_depth`).

        Returns:
            How many of them, counted back from the observed one; by default 1, that one alone.
        """
        return 1

    def attention_layers(self, depth: int) -> frozenset[int]:  # noqa: ARG002
        """Vision layers whose attention the component reads besides the observed one: others are not captured.

        Args:
            depth: vision layers up to the observed one (:attr:`ScoringContext.vision_depth`).

        Returns:
            Numbers from 0 to ``depth - 1``; by default none. A component that reads some needs "layer-attention".
        """
        return frozenset()


@dataclass(frozen=True)
class Score:
    """What a scorer returns for one unit.

    Attributes:
        importance: float32 [N] over the unit's visual tokens, higher is more important; ignored where structural.
        details: small arrays worth reporting, for example ``{"calibration_patches": int [views]}``.
    """

    importance: Array
    details: Mapping[str, Array]


class Scorer(Component):
    """Gives every visual token of a unit an importance."""

    kind: ClassVar[str] = "scorer"

    @property
    def usual_recycler(self) -> "Recycler | None":
        """The recycler that belongs to the method, for strategies given by scorer and budget only; none by default."""
        return None

    @abstractmethod
    def score(self, context: ScoringContext) -> Score:
        """Importance of the unit's visual tokens."""

    def score_retaining(self, context: ScoringContext, count: int) -> Score:  # noqa: ARG002
        """The same where no stage retains more than ``count`` tokens: what pruning calls.

        For scorers that save work if no more tokens than these have to be told from the others.
        """
        return self.score(context)


class Schedule(Component):
    """Says after which decoder layers tokens are pruned, and how many are retained."""

    kind: ClassVar[str] = "schedule"

    @property
    @abstractmethod
    def boundaries(self) -> tuple[int, ...]:
        """For each stage the decoder layer before which it prunes; 0 is before the LLM. Strictly increasing."""

    @abstractmethod
    def counts(self, tokens: int) -> tuple[int, ...]:
        """Visual tokens retained after each stage, of a unit with ``tokens`` visual tokens, separators included.

        Each from 1 to ``tokens``, non-increasing; :func:`vflowopt.components.schedule.clipped` makes such of others.
        """

    def unit_counts(self, units: Sequence[ScoringContext]) -> Sequence[tuple[int, ...]]:
        """The same for all images and videos of one sample, in prompt order: what pruning calls.

        By default each has its :meth:`counts`. A schedule that shares the sample's tokens among them by what is in them
        says otherwise, and lists in ``needs`` what it looks at. What all of them retain in a stage must be what their
        :meth:`counts` are together, so that a budget stays exact. Numbers are needed on the host: whatever they depend
        on is waited for.
        """
        return [self.counts(unit.layout.tokens) for unit in units]

    @abstractmethod
    def average_retention(self, num_layers: int) -> float:
        """Fraction of visual tokens seen by the average decoder layer (paper Eq. 5)."""


@dataclass(frozen=True)
class Merge:
    """The outcome of one stage of one unit, over its N visual tokens.

    Attributes:
        retained: bool [N], True for exactly the stage's count of tokens: kept tokens and recycled ones.
        anchor: int64 [N], the token in whose slot the token's embedding or hidden state ends up; -1 if dropped.
        weight: float32 [N], its share of that slot; 0 if dropped.
    """

    retained: Array
    anchor: Array
    weight: Array


class Recycler(Component):
    """Selects the tokens of the first stage and merges some of what is pruned.

    All tokens that it sees have a place: what becomes of separators is not its business.
    """

    kind: ClassVar[str] = "recycler"

    @abstractmethod
    def merge(self, importance: Array, layout: TokenLayout, count: int) -> Merge:
        """Retain exactly ``count`` of the layout's tokens: at least 1, fewer than there are."""

    def merge_unit(self, importance: Array, context: ScoringContext, count: int) -> Merge:
        """The same for a unit that can be looked at: what pruning calls. By default it is not looked at."""
        return self.merge(importance, context.layout, count)


class ContextRecycler(Recycler):
    """A recycler that looks at more of a unit than importance and layout."""

    def merge(self, importance: Array, layout: TokenLayout, count: int) -> Merge:  # noqa: ARG002
        """Refused: importance and layout are not enough.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"recycler {self.component_name()!r} looks at {', '.join(sorted(self.needs))} of a unit: plan with the "
            f"unit's scoring context (Strategy.plan(importance, layout, context))"
        )

    @abstractmethod
    def merge_unit(self, importance: Array, context: ScoringContext, count: int) -> Merge:
        """Retain exactly ``count`` of the unit's tokens: at least 1, fewer than there are."""
