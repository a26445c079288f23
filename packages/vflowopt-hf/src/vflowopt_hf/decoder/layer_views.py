"""What the decoder layers that hold the same tokens see in one forward: the mask, and in a pruned prefill more."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vflowopt.errors import InputError
from vflowopt_hf.decoder.cache import PrunedLayer, PrunedSlidingLayer
from vflowopt_hf.decoder.conversion import AnyPrunedLayer
from vflowopt_hf.decoder.masks import holds_bias, pruned_mask, step_mask, unmasked_step
from vflowopt_hf.decoder.slots import Slots
from vflowopt_hf.decoder.windows import require_logical_window
from vflowopt_hf.plans.rows import StageRows, take_rows


@dataclass(frozen=True, eq=False)
class LayerView:
    """What some layers share.

    Attributes:
        source: upstream's mask and rotary table, and the number of slots that the cache layer hands to the attention;
            another view is needed for others.
        device: where it is.
        mask: what to give to the layers instead.
        embeddings: likewise.
        slots: tokens that the cache layer holds afterwards; ``None`` if it need not be told.
        bias: float32 [batch, slots], what is to be added to the attention logits of keys besides, where the mask does
            not hold it; ``None`` if nothing.
    """

    source: tuple[Any, Any, Any]
    device: torch.device
    mask: Any
    embeddings: Any = None
    slots: Slots | None = None
    bias: Tensor | None = None

    def serves(self, mask: Any, embeddings: Any, count: Any, device: torch.device) -> bool:
        """Whether a layer that is given these can use the view."""
        known_mask, known_embeddings, known_count = self.source
        same = known_mask is mask and known_embeddings is embeddings and known_count == count
        return same and self.device == device


@dataclass(eq=False)
class Views:
    """The views of one forward.

    Attributes:
        queries: tokens of the unpruned forward.
        implementation: the decoder's attention implementation.
    """

    queries: int
    implementation: str
    _made: dict[tuple[object, ...], LayerView] = field(default_factory=dict)

    def of_continued(self, layer: AnyPrunedLayer, hidden: Tensor, mask: Any, window: int | None) -> LayerView:
        """For a layer that goes on with what it holds, all rows of the forward added.

        Args:
            layer: of the cache.
            hidden: [batch, queries, features], what enters the decoder layer.
            mask: upstream's.
            window: the decoder layer's sliding window.
        """
        key, count = (layer.history, window), layer.slot_count(self.queries)
        view = self._made.get(key)
        if view is None or not view.serves(mask, None, count, hidden.device):
            reduced, bias = self._step_mask(layer, mask, hidden) if window is None else None, None
            if reduced is None:
                slots = layer.slots_after(self.queries, None, hidden.shape[0], hidden.device)
                reduced = self._mask(layer, mask, None, slots, hidden, window)
                bias = self._bias(slots)
            view = self._made[key] = LayerView((mask, None, count), hidden.device, reduced, bias=bias)
        return view

    def _bias(self, slots: Slots) -> Tensor | None:
        return None if holds_bias(self.implementation) else slots.bias

    def _step_mask(self, layer: AnyPrunedLayer, mask: Any, hidden: Tensor) -> Tensor | None:
        """A short way for steps on dynamic caches; ``None`` for all else."""
        if not isinstance(layer, PrunedLayer) or layer.known is None or self.queries != 1:
            return None
        dtype = hidden.dtype
        if mask is None and holds_bias(self.implementation) and not layer.is_plain:
            return unmasked_step(layer.known.to(hidden.device), layer.slot_count(1), dtype)
        if not isinstance(mask, Tensor) or mask.ndim != 4:
            return None
        return step_mask(mask, layer.known.to(mask.device), layer.width + layer.dropped, dtype)

    def of_stage(
        self,
        stage: StageRows,
        layer: AnyPrunedLayer | None,
        hidden: Tensor,
        mask: Any,
        embeddings: Any,
        window: int | None,
    ) -> LayerView:
        """For a layer of a pruned prefill.

        Args:
            stage: rows that the decoder layer runs with.
            layer: of the cache, if there is one.
            hidden: [batch, rows, features], what enters the decoder layer.
            mask: upstream's.
            embeddings: upstream's rotary tables [batch or 1, queries, features].
            window: the decoder layer's sliding window.

        Raises:
            InputError: the tables are for other tokens than those of the forward.
        """
        rows, device = hidden.shape[1], hidden.device
        key = (stage.boundary, None if layer is None else layer.history, window)
        count = None if layer is None else layer.slot_count(rows)
        view = self._made.get(key)
        if view is None or not view.serves(mask, embeddings, count, device):
            retained = Slots(stage.logical, stage.valid, stage.bias).to(device)
            slots = retained
            if layer is not None:
                slots = layer.slots_after(self.queries, retained, hidden.shape[0], device)
            reduced = self._mask(layer, mask, retained, slots, hidden, window)
            tables = embeddings
            if tables is not None:
                self._require_own(tables)
                tables = tuple(take_rows(part, stage.samples, retained.logical) for part in tables)
            source, bias = (mask, embeddings, count), self._bias(slots)
            view = self._made[key] = LayerView(source, device, reduced, tables, slots, bias)
        return view

    def _require_own(self, tables: Any) -> None:
        for part in tables:
            if part.shape[1] != self.queries:
                raise InputError(
                    f"positions are those of {part.shape[1]} tokens, and the forward brings {self.queries}: upstream "
                    f"makes them of an attention mask over earlier turns, too; pass position_ids of these tokens"
                )

    def _mask(
        self,
        layer: AnyPrunedLayer | None,
        mask: Any,
        query: Slots | None,
        key: Slots,
        hidden: Tensor,
        window: int | None,
    ) -> Any:
        device = key.logical.device  # the layer's; upstream makes masks where the decoder begins
        mask = mask.to(device) if isinstance(mask, Tensor) else mask
        start: int | Tensor = 0
        first, length = 0, self.queries
        if layer is not None:
            stored, (_, first) = layer.stored_length(), layer.get_mask_sizes(self.queries)
            start = stored.to(device) if isinstance(stored, Tensor) else stored
            length += layer.get_seq_length()
        in_cache = isinstance(layer, PrunedSlidingLayer)
        require_logical_window(window, length, self.queries, self.implementation, in_cache=in_cache)
        return pruned_mask(
            mask,
            query,
            key,
            rows=hidden.shape[1],
            start=start,
            first=first,
            implementation=self.implementation,
            dtype=hidden.dtype,
        )
