"""Making plans: stage by stage, some before the LLM and some while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vflowopt.arrays import Array, asarray_like, descending_order, device_of, inverse_permutation, namespace
from vflowopt.components import Mass, Merge, Recycler, Reduction, ScoringContext
from vflowopt.components.stage_recycling import Hidden, StageRecycler
from vflowopt.errors import ImportanceError, InputError
from vflowopt.layout import TokenLayout
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
        structural: bool [N], where the importance lives.
        retained: bool [N], tokens that the last decided stage left.
        context: the unit, for a recycler or mass that looks at it.
        mass: weighs what each stage retains; ``None`` weighs nothing.
    """

    plan: PruningPlan
    layout: TokenLayout
    counts: tuple[int, ...]
    recycler: Recycler | None
    structural: Array
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
        *,
        wait: bool = True,
    ) -> "PlanDraft":
        """No stage is decided yet. Arguments and errors are those of :func:`make_plan`.

        Without ``wait`` it is not waited for whether the importance is finite: :func:`check_importance` will have to
        be called later, and until then what is not finite counts as the lowest.
        """
        for count in counts:
            layout.require(count)
        acting = mass if mass is not None and mass.acts else None
        if acting is not None and context is None:
            raise InputError(
                f"mass {acting.component_name()!r} looks at the embeddings of a unit: plan with the unit's scoring "
                f"context (Strategy.plan(importance, layout, context))"
            )
        importance = check_importance(importance, layout) if wait else _finite(importance, layout)
        identity = asarray_like(np.arange(layout.tokens), importance)
        plan = PruningPlan(
            importance=importance,
            structural=layout.structural,
            position=layout.position,
            boundaries=tuple(boundaries),
            kept=(),
            anchor=identity,
            weight=namespace(importance).ones_like(importance),
            recycled=False,
        )
        structural = asarray_like(layout.structural, importance)
        return cls(plan, layout, tuple(counts), recycler, structural, identity >= 0, context, acting)

    @property
    def stage(self) -> int:
        """The stage to decide next."""
        return len(self.plan.kept)

    @property
    def prunes_next(self) -> bool:
        """Whether the stage to decide next drops anything."""
        return self.counts[self.stage] < (self.counts[self.stage - 1] if self.stage else self.plan.tokens)

    def ranked_by(self, importance: Array) -> "PlanDraft":
        """The same draft with another importance of the tokens that are left: float32 [N].

        Values that are not finite count as the lowest: whether there are any is not waited for.

        Raises:
            ImportanceError: wrong shape.
        """
        finite = _finite(importance, self.layout)
        latest = namespace(finite).where(self.retained & ~self.structural, finite, self.plan.importance)
        return replace(self, plan=replace(self.plan, importance=latest))

    def decide(self, hidden: Hidden | None = None) -> "PlanDraft":
        """Decide the next stage by the plan's importance.

        Args:
            hidden: states of the unit's tokens that enter the stage, for a recycler that merges by them inside the
                decoder.

        Raises:
            InputError: the recycler needs them, and there are none.
        """
        plan, count = self.plan, self.counts[self.stage]
        merge = self._merge(count, hidden) if self.prunes_next else None
        retained = self._most_important(count) if merge is None else merge.retained
        if merge is not None and self.stage:
            plan = replace(plan, later={**plan.later, self.stage: StageMerge(merge.anchor, merge.weight)})
        elif merge is not None:
            plan = replace(plan, anchor=merge.anchor, weight=merge.weight, recycled=True)
        elif not self.stage:
            xp = namespace(plan.importance)
            anchor, weight = xp.where(retained, plan.anchor, -1), xp.astype(retained, plan.weight.dtype)
            plan = replace(plan, anchor=anchor, weight=weight)
        plan = replace(plan, kept=(*plan.kept, _true_indices(retained, count)))
        if self.mass is not None:
            mass = self._mass_after(self.mass, plan, retained, merge)
            plan = replace(plan, mass=(*plan.mass, mass), bias=(*plan.bias, self.mass.bias(mass)))
        # Recyclers look at it before the first stage only, and the last stage needs it no more.
        context = None if self.mass is None or plan.is_complete else self.context
        return replace(self, plan=plan, retained=retained, context=context)

    def _merge(self, count: int, hidden: Hidden | None) -> Merge | None:
        """What the recycler makes of the next stage; ``None`` if it leaves it alone."""
        recycler, plan, stage = self.recycler, self.plan, self.stage
        if isinstance(recycler, StageRecycler) and plan.boundaries[stage]:
            if hidden is None:
                raise InputError(
                    f"recycler {recycler.component_name()!r} merges by hidden states inside the decoder, which a plan "
                    f"alone does not have: run the model under `vflowopt.prune` and read its plan"
                )
            before = self.counts[stage - 1] if stage else plan.tokens
            return recycler.merge_stage(self._ranking(), self.layout, before, count, hidden)
        if recycler is None or stage:
            return None
        if self.context is None:
            return recycler.merge(plan.importance, self.layout, count)
        return recycler.merge_unit(plan.importance, self.context, count)

    def _mass_after(self, mass: Mass, plan: PruningPlan, retained: Array, merge: Merge | None) -> Array:
        """What the tokens of the stage that ``plan`` has decided last stand for: float32 [kept]."""
        xp, kept = namespace(retained), plan.kept[-1]
        number = xp.arange(plan.tokens, device=device_of(retained))
        found, before = (plan.kept[-2], plan.mass[-1]) if self.stage else (number, xp.ones_like(plan.importance))
        lost = found.shape[0] - kept.shape[0]
        if not lost:
            return before
        assert self.context is not None
        place = xp.clip(xp.searchsorted(found, number), None, found.shape[0] - 1)
        reduction = Reduction(
            mass=xp.where(self.retained, xp.take(before, place), 0.0),
            kept=kept,
            pruned=_true_indices(self.retained & ~retained, lost),
            anchor=xp.where(retained, number, -1) if merge is None else merge.anchor,
            importance=plan.importance,
            structural=self.structural,
            context=self.context,
        )
        return mass.after(reduction)

    def _ranking(self) -> Array:
        """Importance of the tokens that are left, inf where structural, -inf where pruned before: [N]."""
        xp = namespace(self.plan.importance)
        return xp.where(self.retained, xp.where(self.structural, xp.inf, self.plan.importance), -xp.inf)

    def _most_important(self, count: int) -> Array:
        """Mask [N], True for the ``count`` most important tokens that are left; of equal ones the lower index."""
        return inverse_permutation(descending_order(self._ranking())) < count


def make_plan(
    importance: Array,
    layout: TokenLayout,
    boundaries: Sequence[int],
    counts: Sequence[int],
    recycler: Recycler | None = None,
    context: ScoringContext | None = None,
    mass: Mass | None = None,
) -> PruningPlan:
    """Plan every stage of one unit (paper Algorithm 1).

    The first stage is the recycler's, if there is one; every other stage keeps the most important of the tokens that
    are left; of equally important tokens the one with the lower index. Structural tokens are always retained.

    Args:
        importance: float32 [N]; ignored where structural.
        layout: places of the N tokens.
        boundaries: decoder layer of each stage.
        counts: tokens to retain after each stage, non-increasing, structural tokens included.
        recycler: merges what the first stage prunes; ``None`` drops it.
        context: the unit, for a recycler or mass that looks at it.
        mass: weighs what each stage retains; ``None`` weighs nothing.

    Raises:
        ImportanceError: wrong shape, or a value of a token with a patch is not finite.
        BudgetError: a count is below the number of structural tokens.
        InputError: recycler or mass looks at the unit, and there is no context, or it merges inside the decoder.
    """
    draft = PlanDraft.start(importance, layout, boundaries, counts, recycler, context, mass)
    while not draft.plan.is_complete:
        draft = draft.decide()
    return draft.plan


def _true_indices(mask: Array, count: int) -> Array:
    """Ascending indices [count] of a mask known to hold ``count`` times True, without a data-dependent shape."""
    xp = namespace(mask)
    return xp.argsort(xp.astype(~mask, xp.uint8), stable=True)[:count]
