"""What happens to every visual token of a unit: kept, merged into which anchor, or dropped at which stage."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from vflowopt.arrays import Array, HostBools, HostInts, to_numpy
from vflowopt.components.schedule import achieved_retention

KEPT, MERGED, DROPPED = "kept", "merged", "dropped"


@dataclass(frozen=True, eq=False)
class StageMerge:
    """What one stage merges into the slots of the tokens that it retains.

    Attributes:
        anchor: int64 [N], the token whose slot takes over this token's hidden state: itself if it was retained, -1 if
            it was dropped here unmerged, or at an earlier stage.
        weight: float32 [N], this token's share of that slot; 0 without one.
    """

    anchor: Array
    weight: Array

    def each(self, change: Callable[[Array], Array]) -> "StageMerge":
        """The same with every array changed."""
        return StageMerge(change(self.anchor), change(self.weight))


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
        later: what stages after the first merge, by stage; those that merge nothing are not in it.
        mass: for each stage what its tokens stand for, float32 in the order of ``kept``; empty where attention takes no
            account of it.
        bias: likewise what is added to the attention logits of their keys from the stage's first layer on.
    """

    importance: Array
    structural: HostBools
    position: HostInts
    boundaries: tuple[int, ...]
    kept: tuple[Array, ...]
    anchor: Array
    weight: Array
    recycled: bool
    later: Mapping[int, StageMerge] = field(default_factory=dict)
    mass: tuple[Array, ...] = ()
    bias: tuple[Array, ...] = ()

    def __repr__(self) -> str:
        """Counts alone, which wait for no device."""
        stages = [f"{count} from layer {layer}" for count, layer in zip(self.counts, self.boundaries, strict=False)]
        return f"PruningPlan({self.tokens} visual tokens -> {', '.join(stages) or 'still to be decided'})"

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

    def merge_at(self, stage: int) -> StageMerge | None:
        """What a stage merges; ``None`` if it merges nothing."""
        if stage:
            return self.later.get(stage)
        return StageMerge(self.anchor, self.weight) if self.recycled else None

    def merge_embeddings(self, embeddings: Array) -> Array:
        """StageMerge of the first stage before its rows are gathered (Eq. 7).

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

    def is_merged(self) -> HostBools:
        """Which tokens went into the slot of another one, at any stage: bool [N], on the host."""
        tokens = np.arange(self.tokens)
        anchors = [to_numpy(anchor) for anchor in (self.anchor, *(merge.anchor for merge in self.later.values()))]
        return np.asarray(np.any([(anchor >= 0) & (anchor != tokens) for anchor in anchors], axis=0), dtype=bool)

    def fates(self) -> list[str]:
        """For each token ``"kept"`` (to the last stage), ``"merged"`` (at any stage), or ``"dropped"``."""
        last, merged = set(to_numpy(self.kept[-1]).tolist()), self.is_merged()
        return [KEPT if token in last else MERGED if merged[token] else DROPPED for token in range(self.tokens)]

    def to_host(self) -> "PruningPlan":
        """The same plan with NumPy arrays."""
        return self.each(to_numpy)

    def each(self, change: Callable[[Array], Array]) -> "PruningPlan":
        """The same plan with every array but those of the host changed, always in the same order."""
        return PruningPlan(
            importance=change(self.importance),
            structural=self.structural,
            position=self.position,
            boundaries=self.boundaries,
            kept=tuple(change(kept) for kept in self.kept),
            anchor=change(self.anchor),
            weight=change(self.weight),
            recycled=self.recycled,
            later={stage: merge.each(change) for stage, merge in self.later.items()},
            mass=tuple(change(mass) for mass in self.mass),
            bias=tuple(change(bias) for bias in self.bias),
        )
