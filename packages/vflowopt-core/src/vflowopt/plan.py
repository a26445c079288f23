"""What happens to every visual token of a unit: kept, merged into which anchor, or dropped at which stage."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vflowopt.arrays import (
    Array,
    HostBools,
    HostInts,
    asarray_like,
    descending_order,
    inverse_permutation,
    namespace,
    to_numpy,
)
from vflowopt.components import Merge, Recycler, ScoringContext
from vflowopt.errors import ImportanceError
from vflowopt.layout import TokenLayout
from vflowopt.schedule import achieved_retention

KEPT, MERGED, DROPPED = "kept", "merged", "dropped"


@dataclass(frozen=True, eq=False)
class PruningPlan:
    """A unit's plan over its N visual tokens in prompt order. Arrays live wherever the importance lived.

    Attributes:
        importance: float32 [N], higher is more important; 0 where structural. Of scorers that rank anew at every stage,
            what each token was ranked by last.
        structural: bool [N], on the host.
        position: int64 [N, 3] (view, row, column) in the token's own grid, -1 where structural; on the host.
        boundaries: for each stage the decoder layer before which it prunes.
        kept: one ascending int64 index array per stage, nested. Fewer than there are boundaries while later stages are
            still to be decided.
        anchor: int64 [N], the token whose slot carries this token's embedding after the first stage: itself if it
            was kept, -1 if it was dropped unmerged.
        weight: float32 [N], this token's share of that slot; 0 if dropped.
        recycled: whether a recycler made the first stage, so that slots must be recomputed.
    """

    importance: Array
    structural: HostBools
    position: HostInts
    boundaries: tuple[int, ...]
    kept: tuple[Array, ...]
    anchor: Array
    weight: Array
    recycled: bool

    @property
    def tokens(self) -> int:
        """N, the unit's visual tokens before pruning."""
        return int(self.structural.shape[0])

    @property
    def counts(self) -> tuple[int, ...]:
        """Visual tokens after each stage."""
        return tuple(int(kept.shape[0]) for kept in self.kept)

    @property
    def is_identity(self) -> bool:
        """Whether every token is retained at every stage, so that nothing needs to be done."""
        return self.is_complete and all(count == self.tokens for count in self.counts)

    @property
    def is_complete(self) -> bool:
        """Whether every stage is decided."""
        return len(self.kept) == len(self.boundaries)

    def achieved_retention(self, num_layers: int) -> float:
        """Average retention (Eq. 5) of the exact counts."""
        return achieved_retention(self.counts, self.tokens, self.boundaries, num_layers)

    def merge_embeddings(self, embeddings: Array) -> Array:
        """Slots of the first stage before its rows are gathered (Eq. 7).

        Args:
            embeddings: [N, features] of the unit's tokens, NumPy.

        Returns:
            [N, features]: at each anchor the weighted mean of the embeddings merged into it; other rows are 0.
        """
        anchor, weight = to_numpy(self.anchor), to_numpy(self.weight)
        source = to_numpy(embeddings)
        slots = np.zeros_like(source)
        carried = anchor >= 0
        np.add.at(slots, anchor[carried], weight[carried, None].astype(source.dtype) * source[carried])
        return slots

    def fates(self) -> list[str]:
        """For each token ``"kept"`` (to the last stage), ``"merged"``, or ``"dropped"``."""
        last = set(to_numpy(self.kept[-1]).tolist())
        anchors = to_numpy(self.anchor).tolist()
        return [
            KEPT if token in last else MERGED if anchor not in (-1, token) else DROPPED
            for token, anchor in enumerate(anchors)
        ]

    def to_host(self) -> "PruningPlan":
        """The same plan with NumPy arrays."""
        return PruningPlan(
            importance=to_numpy(self.importance),
            structural=self.structural,
            position=self.position,
            boundaries=self.boundaries,
            kept=tuple(to_numpy(kept) for kept in self.kept),
            anchor=to_numpy(self.anchor),
            weight=to_numpy(self.weight),
            recycled=self.recycled,
        )


def check_importance(importance: Array, layout: TokenLayout) -> Array:
    """Return ``importance`` with 0 at structural tokens, if it is [N] and finite elsewhere.

    Raises:
        ImportanceError: it is not; names the shape or the number of values that are not finite.
    """
    xp, tokens = namespace(importance), layout.tokens
    _check_shape(importance, tokens)
    importance = xp.where(asarray_like(layout.structural, importance), xp.zeros_like(importance), importance)
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
        recycler: merges what the first stage prunes; ``None`` drops it.
        structural: bool [N], where the importance lives.
        retained: bool [N], tokens that the last decided stage left.
        context: the unit, for a recycler that looks at it.
    """

    plan: PruningPlan
    layout: TokenLayout
    counts: tuple[int, ...]
    recycler: Recycler | None
    structural: Array
    retained: Array
    context: ScoringContext | None = None

    @classmethod
    def start(
        cls,
        importance: Array,
        layout: TokenLayout,
        boundaries: Sequence[int],
        counts: Sequence[int],
        recycler: Recycler | None = None,
        context: ScoringContext | None = None,
    ) -> "PlanDraft":
        """No stage is decided yet. Arguments and errors are those of :func:`make_plan`."""
        for count in counts:
            layout.require(count)
        importance = check_importance(importance, layout)
        everything = _identity(asarray_like(np.arange(layout.tokens), importance), importance)
        plan = PruningPlan(
            importance=importance,
            structural=layout.structural,
            position=layout.position,
            boundaries=tuple(boundaries),
            kept=(),
            anchor=everything.anchor,
            weight=everything.weight,
            recycled=False,
        )
        structural = asarray_like(layout.structural, importance)
        return cls(plan, layout, tuple(counts), recycler, structural, everything.retained, context)

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
        _check_shape(importance, self.plan.tokens)
        xp = namespace(importance)
        finite = xp.where(xp.isfinite(importance), importance, xp.finfo(importance.dtype).min)
        latest = xp.where(self.retained & ~self.structural, finite, self.plan.importance)
        return replace(self, plan=replace(self.plan, importance=latest))

    def decide(self) -> "PlanDraft":
        """Decide the next stage by the plan's importance."""
        plan, count = self.plan, self.counts[self.stage]
        xp = namespace(plan.importance)
        protected = xp.where(self.structural, xp.inf, plan.importance)
        if self.stage:
            retained = _most_important(xp.where(self.retained, protected, -xp.inf), count)
        elif count == plan.tokens:
            retained = self.retained
        else:
            if self.recycler is None:
                first = _keep_most_important(protected, plan.anchor, count)
            elif self.context is None:
                first = self.recycler.merge(plan.importance, self.layout, count)
            else:
                first = self.recycler.merge_unit(plan.importance, self.context, count)
            plan = replace(plan, anchor=first.anchor, weight=first.weight, recycled=self.recycler is not None)
            retained = first.retained
        plan = replace(plan, kept=(*plan.kept, _true_indices(retained, count)))
        return replace(self, plan=plan, retained=retained, context=None)  # only the first stage merges


def make_plan(
    importance: Array,
    layout: TokenLayout,
    boundaries: Sequence[int],
    counts: Sequence[int],
    recycler: Recycler | None = None,
    context: ScoringContext | None = None,
) -> PruningPlan:
    """Plan every stage of one unit (paper Algorithm 1).

    The first stage is the recycler's, if there is one. Every other stage keeps the most important of the tokens that
    are left; of equally important tokens the one with the lower index. Structural tokens are always retained.

    Args:
        importance: float32 [N]; ignored where structural.
        layout: places of the N tokens.
        boundaries: decoder layer of each stage.
        counts: tokens to retain after each stage, non-increasing, structural tokens included.
        recycler: merges what the first stage prunes; ``None`` drops it.
        context: the unit, for a recycler that looks at it.

    Raises:
        ImportanceError: wrong shape, or a value of a token with a patch is not finite.
        BudgetError: a count is below the number of structural tokens.
        InputError: the recycler looks at the unit, and there is no context.
    """
    draft = PlanDraft.start(importance, layout, boundaries, counts, recycler, context)
    while not draft.plan.is_complete:
        draft = draft.decide()
    return draft.plan


def _most_important(protected: Array, count: int) -> Array:
    """Mask [N], True for the ``count`` largest values; of equal values the lower index."""
    return inverse_permutation(descending_order(protected)) < count


def _true_indices(mask: Array, count: int) -> Array:
    """Ascending indices [count] of a mask known to hold ``count`` times True, without a data-dependent shape."""
    xp = namespace(mask)
    return xp.argsort(xp.astype(~mask, xp.uint8), stable=True)[:count]


def _identity(identity: Array, importance: Array) -> Merge:
    xp = namespace(importance)
    return Merge(retained=identity >= 0, anchor=identity, weight=xp.ones_like(importance))


def _keep_most_important(protected: Array, identity: Array, count: int) -> Merge:
    """A first stage without recycling: what is not retained is dropped."""
    xp = namespace(protected)
    retained = _most_important(protected, count)
    return Merge(
        retained=retained,
        anchor=xp.where(retained, identity, -1),
        weight=xp.astype(retained, protected.dtype),
    )
