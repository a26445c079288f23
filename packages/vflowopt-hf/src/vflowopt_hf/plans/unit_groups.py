"""Units whose tokens lie alike, scored and planned as if they were one.

What scorers, recyclers and masses say of one unit, ``torch.func.vmap`` says of several: their arrays then stand for one
unit each, and every operator runs once for all. Components tell whether they can be called so
(:attr:`vflowopt.components.Component.vectorises`).
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast

import numpy.typing as npt
import torch
from torch import Tensor

from vflowopt import Strategy, TokenLayout
from vflowopt.components import Score
from vflowopt.components.greedy import choose_greedily
from vflowopt.plans.planning import PlanDraft
from vflowopt_hf.kernels.fusing import fused_order
from vflowopt_hf.plans.unit_context import UnitContext
from vflowopt_hf.vision.capture import TorchAttention

PAIRS = 1 << 28
"""Pairs of tokens that a group has at most: a float32 matrix over them, which some scorers make, takes 1 GiB."""

ARRAYS = frozenset({"entropy", "class_attention", "saliency", "keys", "values", "features", "text"})
"""What a scoring context gives that differs from unit to unit, and has an axis less than of several units."""

Planned = tuple[PlanDraft, Score]

Computed = TypeVar("Computed", Tensor, tuple[Tensor, Tensor])


def plan_all(strategy: Strategy, counts: Mapping[UnitContext, tuple[int, ...]]) -> dict[UnitContext, Planned]:
    """Score and plan units, those together that can be.

    Args:
        strategy: by which they are planned.
        counts: of each unit, tokens to retain after each stage.

    Raises:
        ImportanceError: an importance map has the wrong shape.
    """
    made: dict[UnitContext, Planned] = {}
    with torch.no_grad():
        for contexts in grouped(strategy, counts):
            made |= zip(contexts, _plan_group(strategy, contexts, counts[contexts[0]]), strict=True)
    return made


def grouped(strategy: Strategy, counts: Mapping[UnitContext, tuple[int, ...]]) -> Iterator[list[UnitContext]]:
    """Units that can be planned together; every unit is in one group.

    Args:
        strategy: by which they are planned.
        counts: of each unit, tokens to retain after each stage.
    """
    parts = [part for part in (strategy.scorer, strategy.recycler, strategy.mass) if part is not None]
    apart = not all(part.is_vectorised for part in parts)
    text = any("text" in part.needs for part in parts)
    groups: dict[Hashable, list[UnitContext]] = {}
    for number, (context, own) in enumerate(counts.items()):
        texts = context.entering.text_count if text else 0
        key: Hashable = number if apart else (own, texts, *_geometry(context))
        group = groups.setdefault(key, [])
        group.append(context)
        if (len(group) + 1) * context.layout.tokens**2 > PAIRS:
            yield groups.pop(key)
    yield from groups.values()


def _geometry(context: UnitContext) -> tuple[Hashable, ...]:
    """What tells units apart whose arrays have other shapes, or whose patches make tokens in other ways."""
    attention = context.attention
    return id(context.layout), _identity(context.unit.to_tokens), attention.shape, attention.device


def _identity(value: Any) -> Hashable:
    """Equal for functions that do the same: partial functions of the same arguments."""
    if isinstance(value, partial):
        named = ((name, _identity(argument)) for name, argument in sorted(value.keywords.items()))
        return (_identity(value.func), *map(_identity, value.args), *named)
    if isinstance(value, tuple):
        return tuple(map(_identity, value))
    return value if isinstance(value, int | float | str) else id(value)


def _plan_group(strategy: Strategy, contexts: Sequence[UnitContext], counts: tuple[int, ...]) -> list[Planned]:
    """Score and plan the units of one group; all retain as many tokens after each stage."""
    if len(contexts) == 1:
        return [_planned(strategy, contexts[0], counts)]
    found: list[Planned] = []

    def plan_one(number: Tensor) -> tuple[Tensor, ...]:
        several = cast("UnitContext", SeveralUnits(tuple(contexts), number))
        planned = _planned(strategy, several, counts)
        found.append(planned)
        return tuple(_arrays(planned))

    numbers = torch.arange(len(contexts), device=contexts[0].attention.device)
    of_units = zip(*(array.unbind() for array in torch.func.vmap(plan_one)(numbers)), strict=True)
    (planned,) = found
    return [_of_unit(planned, context, iter(own)) for context, own in zip(contexts, of_units, strict=True)]


def _planned(strategy: Strategy, context: UnitContext, counts: tuple[int, ...]) -> Planned:
    score = strategy.scorer.score_retaining(context, counts[0])
    return strategy.draft(score.importance, context.layout, context, counts, wait=False), score


def _changed(planned: Planned, change: Callable[[Any], Any]) -> Planned:
    """The same with every array changed, always in the same order."""
    draft, score = planned
    details = {name: change(value) for name, value in score.details.items()}
    return draft.each(change), Score(change(score.importance), details)


def _arrays(planned: Planned) -> list[Any]:
    found: list[Any] = []

    def note(array: Any) -> Any:
        found.append(array)
        return array

    _changed(planned, note)
    return found


def _of_unit(planned: Planned, context: UnitContext, arrays: Iterator[Tensor]) -> Planned:
    draft, score = _changed(planned, lambda _: next(arrays))
    return (draft if draft.context is None else replace(draft, context=context)), score


@dataclass(frozen=True, eq=False)
class SeveralUnits:
    """The scoring context of one of several units that are planned together.

    Attributes:
        contexts: of all; their arrays have the same shapes.
        number: int64 without an axis, which of them, while ``torch.func.vmap`` goes over all numbers.
    """

    contexts: tuple[UnitContext, ...]
    number: Tensor

    def _of_each(self, part: Callable[[UnitContext], Tensor]) -> Tensor:
        return _of_all(self.number, lambda: torch.stack([part(context) for context in self.contexts]))

    @property
    def layout(self) -> TokenLayout:
        """See :class:`vflowopt.components.ScoringContext`, as for all that follows."""
        return self.contexts[0].layout

    @property
    def vision_depth(self) -> int:  # noqa: D102
        return self.contexts[0].vision_depth

    @property
    def attention(self) -> "SeveralSources":  # noqa: D102
        return SeveralSources(tuple(context.attention for context in self.contexts), self.number)

    def layer_attention(self, layer: int) -> "SeveralSources":  # noqa: D102
        return SeveralSources(tuple(context.layer_attention(layer) for context in self.contexts), self.number)

    def class_attentions(self, layers: int) -> Tensor:  # noqa: D102
        return self._of_each(lambda context: context.class_attentions(layers))

    def __getattr__(self, name: str) -> Tensor:
        if name not in ARRAYS:
            raise AttributeError(f"a scoring context has no {name!r}; it has {', '.join(sorted(ARRAYS))}")
        return self._of_each(lambda context: getattr(context, name))

    def place(self, host: npt.NDArray[Any]) -> Tensor:  # noqa: D102
        return self.contexts[0].place(host)

    def to_tokens(self, patch_map: Tensor) -> Tensor:  # noqa: D102
        return self.contexts[0].to_tokens(patch_map)

    def choose_greedily(  # noqa: D102
        self, first: Tensor, distance: Tensor, steps: int, worth: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        fused = fused_order(distance.device, len(distance))
        if fused is None:
            return choose_greedily(first, distance, steps, worth)

        def of_all(first: Tensor, distance: Tensor, worth: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return fused(first, distance, steps, worth)

        given = (first, distance) if worth is None else (first, distance, worth)
        return _of_all(self.number, of_all, *given)


@dataclass(frozen=True, eq=False)
class SeveralSources:
    """The attention of one of several units that are planned together.

    Attributes:
        sources: of all units.
        number: see :class:`SeveralUnits`.
    """

    sources: tuple[TorchAttention, ...]
    number: Tensor

    def received(self, queries: Tensor | None = None, at_most: int | None = None) -> Tensor:
        """See :meth:`vflowopt.components.AttentionSource.received`."""
        together, units = TorchAttention.together(self.sources), len(self.sources)

        def of_all(asking: Tensor | None = None) -> Tensor:
            flat = None if asking is None else asking.flatten(0, 1)
            received: Tensor = together.received(flat, at_most).unflatten(0, (units, -1))
            return received

        return _of_all(self.number, of_all, *([] if queries is None else [queries]))


def _of_all(number: Tensor, compute: Callable[..., Computed], *given: Tensor) -> Computed:
    """One unit's share of what is computed for all units at once, outside ``torch.func.vmap``.

    Args:
        number: of the unit, as vmap goes over them.
        compute: takes as many arguments as are given, each of all units [units, ...], and returns [units, ...], once or
            several times.
        given: arguments of the one unit.
    """
    found: Computed = _Outside.apply(number, compute, *given)
    return found


class _Outside(torch.autograd.Function):
    """Has a rule of its own for ``torch.func.vmap``, and nothing else; no gradients are taken."""

    @staticmethod
    def forward(number: Tensor, compute: Callable[..., Computed], *given: Tensor) -> Computed:  # noqa: ARG004
        raise AssertionError("units are planned together, or not by this function")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept for gradients."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], _number: Tensor, compute: Callable[..., Computed], *given: Tensor
    ) -> tuple[Computed, int]:
        """What is computed for all, along the first axis."""
        whole = [
            argument.expand(info.batch_size, *argument.shape) if axis is None else argument.movedim(axis, 0)
            for argument, axis in zip(given, in_dims[2:], strict=True)
        ]
        return compute(*whole), 0
