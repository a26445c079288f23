"""Making plans: stage by stage, some before the LLM and some while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vflowopt.arrays import Array, asarray_like, descending_order, device_of, inverse_permutation, namespace
from vflowopt.components import Mass, Merge, Recycler, Reduction, ScoringContext
from vflowopt.components.schedule import clipped
from vflowopt.components.stage_recycling import Hidden, StageRecycler
from vflowopt.errors import ImportanceError, InputError
from vflowopt.layout import TokenLayout
from vflowopt.plans.competitors import SEPARATORS, Competitors, Separators
from vflowopt.plans.plan import PruningPlan, StageMerge


def check_importance(importance: Array, layout: TokenLayout) -> Array:
    """Return ``importance`` with 0 at structural tokens, if it is [N] and finite elsewhere.

    Raises:
        ImportanceError: it is not; names the shape or the number of values that are not finite.
    """
    xp, tokens = namespace(importance), layout.tokens
    _check_shape(importance, tokens)
    importance = _without_structural(importance, layout)
    bad = int(xp.sum(xp.astype(~xp.isfinite(importance), xp.int64)))
    if bad:
        raise ImportanceError(
            f"the importance map holds {bad} values of {tokens} that are not finite; the vision tower's attention or "
            f"the pixels it saw are not finite (half precision overflow is the usual cause: load the model in bfloat16)"
        )
    return importance


def _finite(importance: Array, layout: TokenLayout) -> Array:
    """The same without the check, what is not finite replaced by the lowest number."""
    xp = namespace(importance)
    _check_shape(importance, layout.tokens)
    importance = _without_structural(importance, layout)
    return xp.where(xp.isfinite(importance), importance, xp.finfo(importance.dtype).min)


def _without_structural(importance: Array, layout: TokenLayout) -> Array:
    xp = namespace(importance)
    return xp.where(asarray_like(layout.structural, importance), xp.zeros_like(importance), importance)


def _check_shape(importance: Array, tokens: int) -> None:
    if tuple(importance.shape) != (tokens,):
        raise ImportanceError(
            f"the importance map has shape {tuple(importance.shape)}, but the unit has {tokens} visual tokens; "
            f"a scorer must return one value per visual token (see ScoringContext.to_tokens)"
        )


@dataclass(frozen=True, eq=False)
class PlanDraft:
    """A plan whose later stages are still to be decided, one after the other.

    Attributes:
        plan: the stages that are decided.
        layout: places of the unit's tokens.
        counts: tokens to retain after each stage, decided or not.
        recycler: merges what the first stage prunes, or every stage; ``None`` drops it.
        competitors: who competes by importance.
        retained: bool [N], tokens that the last decided stage left.
        context: the unit, for a recycler or mass that looks at it.
        mass: weighs what each stage retains; ``None`` weighs nothing.
    """

    plan: PruningPlan
    layout: TokenLayout
    counts: tuple[int, ...]
    recycler: Recycler | None
    competitors: Competitors
    retained: Array
    context: ScoringContext | None = None
    mass: Mass | None = None

    @classmethod
    def start(
        cls,
        importance: Array,
        layout: TokenLayout,
        boundaries: Sequence[int],
        counts: Sequence[int],
        recycler: Recycler | None = None,
        context: ScoringContext | None = None,
        mass: Mass | None = None,
        separators: Separators = SEPARATORS,
        *,
        wait: bool = True,
    ) -> "PlanDraft":
        """No stage is decided yet. Arguments and errors are those of :func:`make_plan`.

        Without ``wait`` it is not waited for whether the importance is finite: :func:`check_importance` will have to
        be called later, and until then what is not finite counts as the lowest.
        """
        acting = mass if mass is not None and mass.acts else None
        if acting is not None and context is None:
            raise InputError(
                f"mass {acting.component_name()!r} looks at the embeddings of a unit: plan with the unit's scoring "
                f"context (Strategy.plan(importance, layout, context))"
            )
        importance = check_importance(importance, layout) if wait else _finite(importance, layout)
        identity = asarray_like(np.arange(layout.tokens), importance)
        competitors, everything = Competitors.of(separators, layout, importance), identity >= 0
        plan = PruningPlan(
            importance=competitors.valued(importance, everything),
            structural=layout.structural,
            position=layout.position,
            boundaries=tuple(boundaries),
            kept=(),
            anchor=identity,
            weight=namespace(importance).ones_like(importance),
            recycled=False,
        )
        counts = clipped(counts, layout.tokens)
        return cls(plan, layout, counts, recycler, competitors, everything, context, acting)

    @property
    def stage(self) -> int:
        """The stage to decide next."""
        return len(self.plan.kept)

    @property
    def prunes_next(self) -> bool:
        """Whether the stage to decide next drops anything."""
        return self.counts[self.stage] < self._left

    @property
    def _left(self) -> int:
        """How many tokens the stage to decide next finds."""
        return self.counts[self.stage - 1] if self.stage else self.plan.tokens

    def ranked_by(self, importance: Array) -> "PlanDraft":
        """The same draft with another importance of the tokens that are left: float32 [N].

        Values that are not finite count as the lowest: whether there are any is not waited for.

        Raises:
            ImportanceError: wrong shape.
        """
        latest = self.competitors.valued(_finite(importance, self.layout), self.retained)
        latest = namespace(latest).where(self.retained, latest, self.plan.importance)
        return replace(self, plan=replace(self.plan, importance=latest))

    def decide(self, hidden: Hidden | None = None) -> "PlanDraft":
        """Decide the next stage by the plan's importance.

        Args:
            hidden: states of the unit's tokens that enter the stage, for a recycler that merges by them inside the
                decoder.

        Raises:
            InputError: the recycler needs them, and there are none.
        """
        plan, count, competitors = self.plan, self.counts[self.stage], self.competitors
        share, before = competitors.share(count), competitors.share(self._left)
        merge = self._recycled(share, before, hidden) if share < before else None
        outcome = competitors.widened(self._most_important(share) if merge is None else merge, count)
        joins = competitors.separators == "merge" and count - share < self._left - before
        if joins:
            outcome = competitors.joined(outcome, self.retained)
        recycles = merge is not None or joins
        if not self.stage:
            plan = replace(plan, anchor=outcome.anchor, weight=outcome.weight, recycled=recycles)
        elif recycles:
            plan = replace(plan, later={**plan.later, self.stage: StageMerge(outcome.anchor, outcome.weight)})
        plan = replace(plan, kept=(*plan.kept, _true_indices(outcome.retained, count)))
        if self.mass is not None:
            weights = self._mass_after(self.mass, plan, outcome)
            plan = replace(plan, mass=(*plan.mass, weights), bias=(*plan.bias, self.mass.bias(weights)))
        # Recyclers look at it before the first stage only, and the last stage needs it no more.
        context = None if self.mass is None or plan.is_complete else self.context
        return replace(self, plan=plan, retained=outcome.retained, context=context)

    def _recycled(self, count: int, before: int, hidden: Hidden | None) -> Merge | None:
        """What the recycler makes of the tokens that compete; ``None`` if it leaves the stage alone.

        Args:
            count: how many of them the stage retains.
            before: how many it finds.
            hidden: see :meth:`decide`.
        """
        recycler, competitors, stage = self.recycler, self.competitors, self.stage
        if isinstance(recycler, StageRecycler) and self.plan.boundaries[stage]:
            if hidden is None:
                raise InputError(
                    f"recycler {recycler.component_name()!r} merges by hidden states inside the decoder, which a plan "
                    f"alone does not have: run the model under `vflowopt.prune` and read its plan"
                )
            states = competitors.hidden(hidden)
            return recycler.merge_stage(self._ranking(), competitors.layout, before, count, states)
        if recycler is None or stage:
            return None
        importance = competitors.taken(self.plan.importance)
        if self.context is None:
            return recycler.merge(importance, competitors.layout, count)
        return recycler.merge_unit(importance, competitors.context(self.context), count)

    def _mass_after(self, mass: Mass, plan: PruningPlan, outcome: Merge) -> Array:
        """What the tokens of the stage that ``plan`` has decided last stand for: float32 [kept]."""
        xp, kept = namespace(outcome.retained), plan.kept[-1]
        number = xp.arange(plan.tokens, device=device_of(outcome.retained))
        found, before = (plan.kept[-2], plan.mass[-1]) if self.stage else (number, xp.ones_like(plan.importance))
        lost = found.shape[0] - kept.shape[0]
        if not lost:
            return before
        assert self.context is not None
        place = xp.clip(xp.searchsorted(found, number), None, found.shape[0] - 1)
        reduction = Reduction(
            mass=xp.where(self.retained, xp.take(before, place), 0.0),
            kept=kept,
            pruned=_true_indices(self.retained & ~outcome.retained, lost),
            anchor=outcome.anchor,
            importance=plan.importance,
            structural=self.competitors.structural,
            context=self.context,
        )
        return mass.after(reduction)

    def _ranking(self) -> Array:
        """Importance of the tokens that compete, -inf where pruned before: [C]."""
        xp = namespace(self.plan.importance)
        return self.competitors.taken(xp.where(self.retained, self.plan.importance, -xp.inf))

    def _most_important(self, count: int) -> Merge:
        """The ``count`` most important of the tokens that compete; of equal ones the lower index."""
        ranking = self._ranking()
        xp = namespace(ranking)
        retained = inverse_permutation(descending_order(ranking)) < count
        itself = xp.arange(ranking.shape[0], device=device_of(ranking))
        return Merge(retained, xp.where(retained, itself, -1), xp.astype(retained, ranking.dtype))


def make_plan(
    importance: Array,
    layout: TokenLayout,
    boundaries: Sequence[int],
    counts: Sequence[int],
    recycler: Recycler | None = None,
    context: ScoringContext | None = None,
    mass: Mass | None = None,
    separators: Separators = SEPARATORS,
) -> PruningPlan:
    """Plan every stage of one unit (paper Algorithm 1).

    The first stage is the recycler's, if there is one; every other stage keeps the most important of the tokens that
    are left; of equally important tokens the one with the lower index.

    Args:
        importance: float32 [N]; ignored where structural.
        layout: places of the N tokens.
        boundaries: decoder layer of each stage.
        counts: tokens to retain after each stage, separators included; clipped to what the unit has, see
            :func:`vflowopt.components.schedule.clipped`.
        recycler: merges what the first stage prunes; ``None`` drops it.
        context: the unit, for a recycler or mass that looks at it.
        mass: weighs what each stage retains; ``None`` weighs nothing.
        separators: what becomes of separators.

    Raises:
        ImportanceError: wrong shape, or a value of a token with a patch is not finite.
        InputError: recycler or mass looks at the unit, and there is no context, or it merges inside the decoder.
    """
    draft = PlanDraft.start(importance, layout, boundaries, counts, recycler, context, mass, separators)
    while not draft.plan.is_complete:
        draft = draft.decide()
    return draft.plan


def _true_indices(mask: Array, count: int) -> Array:
    """Ascending indices [count] of a mask known to hold ``count`` times True, without a data-dependent shape."""
    xp = namespace(mask)
    return xp.argsort(xp.astype(~mask, xp.uint8), stable=True)[:count]
