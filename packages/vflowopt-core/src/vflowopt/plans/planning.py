"""Making plans: stage by stage, some before the LLM and some while it runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vflowopt.arrays import Array, descending_order, finite_or_lowest, namespace, pick
from vflowopt.components import Mass, Merge, Recycler, Reduction, ScoringContext
from vflowopt.components.schedule import clipped
from vflowopt.components.stage_recycling import Hidden, StageRecycler
from vflowopt.errors import ImportanceError, InputError
from vflowopt.layout import TokenLayout
from vflowopt.plans.competitors import SEPARATORS, Competitors, Separators
from vflowopt.plans.outcomes import Dropped, Merged, Outcome, Untouched, true_indices
from vflowopt.plans.plan import PruningPlan, StageMerge


def check_importance(importance: Array, layout: TokenLayout) -> Array:
    """Return ``importance`` with 0 at structural tokens, if it is [N] and finite elsewhere.

    Raises:
        ImportanceError: it is not; names the shape or the number of values that are not finite.
    """
    xp, tokens = namespace(importance), layout.tokens
    _check_shape(importance, tokens)
    importance = xp.where(layout.structural_like(importance), 0.0, importance)
    bad = int(xp.sum(xp.astype(~xp.isfinite(importance), xp.int64)))
    if bad:
        raise ImportanceError(
            f"the importance map holds {bad} values of {tokens} that are not finite; the vision tower's attention or "
            f"the pixels it saw are not finite (half precision overflow is the usual cause: load the model in bfloat16)"
        )
    return importance


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
        last: what the last decided stage did; ``None`` once all are.
        order: int64 [C], those that compete by the plan's importance, the most important first, of equal ones the lower
            index, and last those that were pruned before; ``None`` until it is asked for.
        context: the unit, for a recycler or mass that looks at it.
        mass: weighs what each stage retains; ``None`` weighs nothing.
    """

    plan: PruningPlan
    layout: TokenLayout
    counts: tuple[int, ...]
    recycler: Recycler | None
    competitors: Competitors
    last: Outcome | None
    order: Array | None = None
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
        if wait:
            check_importance(importance, layout)
        _check_shape(importance, layout.tokens)
        competitors = Competitors.of(separators, layout, importance)
        importance = competitors.valued(finite_or_lowest(importance))
        untouched = Untouched(competitors.number, competitors.one)
        plan = PruningPlan(
            importance=importance,
            structural=layout.structural,
            position=layout.position,
            boundaries=tuple(boundaries),
            kept=(),
            anchor=untouched.kept,
            weight=untouched.weight,
            recycled=False,
        )
        counts = clipped(counts, layout.tokens)
        return cls(plan, layout, counts, recycler, competitors, untouched, context=context, mass=acting)

    @property
    def stage(self) -> int:
        """The stage to decide next."""
        return len(self.plan.kept)

    @property
    def prunes_next(self) -> bool:
        """Whether the stage to decide next drops anything."""
        return self.counts[self.stage] < self._left

    @property
    def _found(self) -> Merge:
        """What the stage before it did."""
        assert self.last is not None  # else the plan is complete
        return self.last.merge

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
        _check_shape(importance, self.layout.tokens)
        retained = self._found.retained
        latest = self.competitors.valued(finite_or_lowest(importance), retained)
        latest = namespace(latest).where(retained, latest, self.plan.importance)
        return replace(self, plan=replace(self.plan, importance=latest), order=None)

    def decide(self, hidden: Hidden | None = None) -> "PlanDraft":
        """Decide the next stage by the plan's importance.

        Args:
            hidden: states of the unit's tokens that enter the stage, for a recycler that merges by them inside the
                decoder.

        Raises:
            InputError: the recycler needs them, and there are none.
        """
        plan, order, outcome = self.plan, self.order, self.last
        assert outcome is not None  # else the plan is complete
        if self.prunes_next:
            order, outcome = self._next(hidden)
            merges = isinstance(outcome, Merged)
            if not self.stage:
                plan = replace(plan, anchor=outcome.merge.anchor, weight=outcome.merge.weight, recycled=merges)
            elif merges:
                later = StageMerge(outcome.merge.anchor, outcome.merge.weight)
                plan = replace(plan, later={**plan.later, self.stage: later})
        plan = replace(plan, kept=(*plan.kept, outcome.kept))
        if self.mass is not None:
            weights = self._mass_after(self.mass, plan, outcome)
            plan = replace(plan, mass=(*plan.mass, weights), bias=(*plan.bias, self.mass.bias(weights)))
        if plan.is_complete:
            return replace(self, plan=plan, last=None, order=None, context=None)
        # Recyclers look at it before the first stage only.
        context = None if self.mass is None else self.context
        return replace(self, plan=plan, last=outcome, order=order, context=context)

    def each(self, change: Callable[[Array], Array]) -> "PlanDraft":
        """The same draft with every array that belongs to the unit changed, always in the same order."""
        order = None if self.order is None else change(self.order)
        last = None if self.last is None else self.last.each(change)
        return replace(self, plan=self.plan.each(change), last=last, order=order)

    def _next(self, hidden: Hidden | None) -> tuple[Array | None, Outcome]:
        """What the next stage does, which prunes, and the order by which the stage after it goes, if it is known."""
        count, competitors = self.counts[self.stage], self.competitors
        share, before = competitors.share(count), competitors.share(self._left)
        merge = self._recycled(share, before, hidden) if share < before else None
        joins = competitors.separators == "merge" and count - share < self._left - before
        if merge is not None:
            merge = competitors.widened(merge, count)
            return None, Merged(competitors.joined(merge, self._found.retained) if joins else merge, count)
        order = descending_order(self._ranking()) if self.order is None else self.order
        dropped = Dropped(competitors, order, count)
        if joins:
            return order, Merged(competitors.joined(dropped.merge, self._found.retained), count)
        return order, dropped

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

    def _mass_after(self, mass: Mass, plan: PruningPlan, outcome: Outcome) -> Array:
        """What the tokens of the stage that ``plan`` has decided last stand for: float32 [kept]."""
        xp, kept, found = namespace(plan.importance), plan.kept[-1], self._found
        lost = self._left - kept.shape[0]
        if not lost:
            return plan.mass[-1] if self.stage else found.weight
        assert self.context is not None
        before = found.weight
        if self.stage:
            place = xp.clip(xp.cumulative_sum(xp.astype(found.retained, xp.int64)) - 1, 0, None)
            before = xp.where(found.retained, pick(plan.mass[-1], place), 0.0)
        reduction = Reduction(
            mass=before,
            kept=kept,
            pruned=true_indices(found.retained & ~outcome.merge.retained, lost),
            anchor=outcome.merge.anchor,
            importance=plan.importance,
            structural=self._structural,
            context=self.context,
        )
        return mass.after(reduction)

    @property
    def _structural(self) -> Array:
        structural = self.competitors.structural
        return self.competitors.number < 0 if structural is None else structural

    def _ranking(self) -> Array:
        """Importance of the tokens that compete, -inf where pruned before: [C]."""
        importance = self.plan.importance
        if self.stage:
            xp = namespace(importance)
            importance = xp.where(self._found.retained, importance, -xp.inf)
        return self.competitors.taken(importance)


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
