"""Layers that attend to the keys of an earlier layer, in a forward whose layers do not all have the same rows.

A stage removes rows, and with them the keys that its layers store. Keys that were stored before it stay: a layer that
reuses them sees the tokens that the layer had which stored them, with the bias that they had there, also where its own
stage has fewer. So its mask consists of those rows of that layer's mask that are left.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import StaticLayer

from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.decoder.masks import holds_bias
from vflowopt_hf.plans.rows import StageRows, take_rows
from vflowopt_hf.plans.stage_plan import StagePlan


@dataclass(frozen=True, eq=False)
class SharedKeys:
    """How a layer attends whose keys later layers reuse.

    Attributes:
        stage: number of its stage; ``None`` before the first.
        rows: how many it runs with.
        mask: what it is given: ``None`` (plain causal), [batch or 1, heads or 1, rows, slots], or of another kind.
        changed: whether upstream's mask is another one.
        bias: float32 [batch, slots], what is added to the logits besides; ``None`` if nothing.
        cache: the KV cache, or ``None``.
    """

    stage: int | None
    rows: int
    mask: Any
    changed: bool
    bias: Tensor | None
    cache: Any

    def slots(self, layer: int) -> int:
        """How many keys it hands on in a prefill with a plain causal mask, if it is this layer and has run."""
        stored = None if self.cache is None else self.cache.layers[layer]
        room = stored.keys if isinstance(stored, StaticLayer) else None
        return self.rows if room is None else int(room.shape[-2])


@dataclass(frozen=True, eq=False)
class ReusingView:
    """What a layer sees that reuses keys.

    Attributes:
        mask: its attention mask.
        embeddings: its rotary tables.
        bias: see :class:`SharedKeys`.
    """

    mask: Any
    embeddings: Any
    bias: Tensor | None


@dataclass(eq=False)
class ReusedKeys:
    """The keys of one forward that later layers reuse.

    Attributes:
        queries: tokens of the unpruned forward.
    """

    queries: int
    _shared: dict[int, SharedKeys] = field(default_factory=dict)
    _made: dict[tuple[object, ...], ReusingView] = field(default_factory=dict)

    def share(self, layer: int, keys: SharedKeys) -> None:
        """A layer hands its keys on."""
        self._shared[layer] = keys

    def view(
        self, layer: int, stages: Sequence[StageRows], number: int | None, hidden: Tensor, embeddings: Any
    ) -> ReusingView | None:
        """For a layer that reuses keys; ``None`` if upstream's is right.

        Args:
            layer: the layer whose keys these are.
            stages: of the forward, as far as they are decided.
            number: the stage that the layer runs in; ``None`` before the first.
            hidden: [batch, rows, features], what enters the layer: the rows of its stage, or the last of them.
            embeddings: upstream's rotary tables [batch or 1, queries or rows, features].
        """
        shared = self._shared[layer]
        if number is None and not shared.changed:
            return None
        key = (layer, number, hidden.shape[1], hidden.device)
        if key not in self._made:
            places = _places(stages, shared.stage, number)
            mask = _rows_of(shared.mask, places, hidden.shape[1], shared.slots(layer) if shared.mask is None else 0)
            mask = mask.to(hidden.device) if isinstance(mask, Tensor) else mask
            tables = embeddings
            if number is not None and tables is not None and tables[0].shape[1] == self.queries:
                stage = stages[number]
                tables = tuple(take_rows(part, stage.samples, stage.logical) for part in tables)
            self._made[key] = ReusingView(mask, tables, shared.bias)
        return self._made[key]


def last_rows_suffice(plan: StagePlan, layers: Iterable[int], rows: int) -> bool:
    """Whether upstream may run layers that reuse keys with the last rows alone, as it does for ``generate``.

    It may where these are the same tokens in all stages, and no stage is decided by what enters such a layer.

    Args:
        plan: what the forward prunes.
        layers: those that reuse keys.
        rows: how many.
    """
    return rows <= plan.table.tail and not any(map(plan.awaits, layers))


def require_reusable(implementation: str, layer: int) -> None:
    """Check that a layer may have fewer rows than the one whose keys it attends to.

    Raises:
        UnsupportedOperationError: the attention implementation has no masks of queries and keys.
    """
    if not holds_bias(implementation):
        raise UnsupportedOperationError(
            f"decoder layer {layer} reuses keys of an earlier stage, which attention {implementation!r} has no mask "
            f"for; let no stage begin so late, or load the model with attn_implementation='sdpa'"
        )


def _places(stages: Sequence[StageRows], earlier: int | None, later: int | None) -> Tensor | None:
    """Where the rows of a stage are among those of an earlier one, int64 [batch, rows]; ``None`` if they are the same.

    Filler is at places of filler or of what was dropped, which see something.
    """
    if later is None or later == earlier:
        return None
    first, *others = stages[0 if earlier is None else earlier + 1 : later + 1]
    places = first.gather
    for stage in others:
        places = places.gather(1, stage.gather)
    return places


def _rows_of(mask: Any, places: Tensor | None, rows: int, slots: int) -> Any:
    """The last rows of a mask, or of those at some places.

    Args:
        mask: see :class:`SharedKeys`.
        places: int64 [batch, rows of a stage] or ``None``.
        rows: how many.
        slots: how many keys there are, if the mask is ``None``.
    """
    if places is None:
        return mask[:, :, -rows:] if isinstance(mask, Tensor) and mask.ndim == 4 else mask
    places = places[:, -rows:]
    if mask is None:
        slot = torch.arange(slots, device=places.device)
        return (slot <= places[..., None])[:, None]
    mask = mask.expand(len(places), -1, -1, -1)
    chosen = places.to(mask.device)[:, None, :, None]
    return mask.gather(2, chosen.expand(-1, mask.shape[1], -1, mask.shape[3]))
