"""Cache layers that store fewer tokens than the model believes it has seen.

Upstream keeps thinking in logical (unpruned) coordinates: :class:`PrunedLayer` reports logical lengths, so attention
masks, position ids and the slicing of ``input_ids`` work untouched, while keys and values are stored for retained
tokens only. Which logical token each slot holds lives in the cache layer itself, and therefore survives multi-turn
use, beam reordering and batch selection.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

from vflowopt.errors import PruningStateError, UnsupportedOperationError


class PrunedLayer(DynamicLayer):
    """A dynamic cache layer of which some tokens were never stored.

    Attributes:
        slots: int64 [batch, stored], the logical index of the token in each slot.
        valid: bool [batch, stored], False for filler of samples that retain fewer tokens; ``None`` if all are valid.
        dropped: logical length minus stored length: tokens never stored, or discarded.
        history: stages that produced the layer's content; layers with equal history hold the same tokens.
        solid: trailing slots in which no token is missing, so that they can be cropped.
    """

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()
        # Adopts the stored states; assigning __class__ would keep the subclass's missing attributes missing.
        self.__dict__.update(layer.__dict__)
        self.slots: Tensor | None = None
        self.valid: Tensor | None = None
        self.dropped = 0
        self.history: tuple[int, ...] = ()
        self.solid = super().get_seq_length()
        self._announced: int | None = None

    def announce(self, slots: Tensor, valid: Tensor | None, rows: int, skipped: int, stage: int | None) -> None:
        """State what the next :meth:`update` appends: ``rows`` of ``rows + skipped`` logical tokens.

        ``slots`` and ``valid`` describe the whole layer after the update. ``stage`` marks a pruned prefill.
        """
        self.slots, self.valid = slots, valid
        self.dropped += skipped
        self.solid = rows + self.solid if stage is None else 0
        self._announced = rows
        if stage is not None:
            self.history = (*self.history, stage)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values of retained tokens.

        Raises:
            PruningStateError: called outside ``prune``, whose hooks say which tokens these are.
        """
        if self._announced != key_states.shape[-2]:
            raise PruningStateError(
                "this KV cache was filled while visual tokens were pruned, and can only be continued inside "
                "`with prune(model, strategy):`; enter it again, or start from a fresh cache"
            )
        self._announced = None
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        return keys, values

    def get_seq_length(self) -> int:
        """Logical length: the number of tokens the model has seen."""
        return int(super().get_seq_length()) + self.dropped

    def stored_length(self) -> int:
        """Number of slots, filler included."""
        return int(super().get_seq_length())

    def reset(self) -> None:
        """Forget everything, the pruning state included."""
        super().reset()
        self.slots = self.valid = None
        self.dropped, self.history, self.solid = 0, (), 0

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end (a negative number, as upstream).

        Raises:
            UnsupportedOperationError: the cut would reach into the pruned prompt.
        """
        if -tokens_to_remove > self.solid:
            raise UnsupportedOperationError(
                f"cannot remove {-tokens_to_remove} tokens from a pruned KV cache: only the last {self.solid} are "
                f"known to be complete; start from a fresh cache"
            )
        super().crop(tokens_to_remove)
        if tokens_to_remove < 0 and self.slots is not None:
            self.slots = self.slots[:, :tokens_to_remove]
            self.valid = None if self.valid is None else self.valid[:, :tokens_to_remove]
            self.solid += tokens_to_remove

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Reorder the batch, as beam search does."""
        super().reorder_cache(beam_idx)
        self._select(lambda state: state.index_select(0, beam_idx.to(state.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sample."""
        super().batch_repeat_interleave(repeats)
        self._select(lambda state: state.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some samples."""
        super().batch_select_indices(indices)
        self._select(lambda state: state[indices.to(state.device)])

    def _select(self, choose: Any) -> None:
        self.slots = None if self.slots is None else choose(self.slots)
        self.valid = None if self.valid is None else choose(self.valid)


class PrunedSlidingLayer(PrunedLayer):
    """A pruned layer of sliding-window attention, in place of upstream's ``DynamicSlidingWindowLayer``.

    Stores the last ``sliding_window - 1`` slots, never more than the unpruned layer. All tokens that a later query can
    see are among them, because a token is at least as far back in the sequence as in the slots: a forward appends at
    most as many slots, filler included, as it has tokens. The older of these slots may be out of the window already:
    the masks, whose sizes are those of the unpruned layer, hide them.
    """

    is_sliding = True
    sliding_window: int
    record_past: bool

    def __init__(self, layer: DynamicSlidingWindowLayer) -> None:
        super().__init__(layer)
        # A layer that was filled before may have discarded tokens: slots are numbered from the first that is stored.
        self.dropped = self.__dict__.pop("cumulative_length") - self.stored_length()
        self._discarded = self.dropped > 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of logical tokens in the unpruned layer's mask, and the first of them."""
        seen = self.get_seq_length()
        first = max(seen - self.sliding_window + 1, 0)
        return seen - first + query_length, first

    def get_max_length(self) -> int:
        """As the unpruned layer."""
        return self.sliding_window

    def activate_past_recording(self) -> None:
        """Keep what leaves the window until the next :meth:`crop`, as assisted generation asks for."""
        self.record_past = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values of retained tokens; the result still holds what the layer then discards.

        Raises:
            PruningStateError: as :meth:`PrunedLayer.update`.
        """
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        if not self.record_past:
            self._discard()
        return keys, values

    def reset(self) -> None:
        """Forget everything, the pruning state included."""
        super().reset()
        self._discarded = False

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end (a negative number, as upstream), and what the window does not need.

        Raises:
            UnsupportedOperationError: the cut would reach into the pruned prompt, or back to discarded tokens.
        """
        left = self.stored_length() + tokens_to_remove
        if tokens_to_remove < 0 and self._discarded and left < self.sliding_window - 1:
            raise UnsupportedOperationError(
                f"cannot remove {-tokens_to_remove} tokens from a KV cache whose sliding window of "
                f"{self.sliding_window} tokens has moved on; call activate_past_recording() on the cache before the "
                f"forwards that may be undone"
            )
        super().crop(tokens_to_remove)
        self._discard()

    def _discard(self) -> None:
        """Drop the slots that no later query can see."""
        extra = self.stored_length() - (self.sliding_window - 1)
        if extra <= 0:
            return
        self.keys, self.values = self.keys[:, :, extra:], self.values[:, :, extra:]  # type: ignore[index]
        self.slots = None if self.slots is None else self.slots[:, extra:]
        self.valid = None if self.valid is None else self.valid[:, extra:]
        self.dropped += extra
        self.solid = min(self.solid, self.stored_length())
        self._discarded = True


def layer_of(cache: Cache, index: int) -> DynamicLayer:
    """The cache's layer, created if the cache grows lazily.

    Raises:
        UnsupportedOperationError: neither a plain dynamic layer nor a dynamic sliding-window layer.
    """
    blank = getattr(cache, "layer_class_to_replicate", None)
    while blank is not None and len(cache.layers) <= index:
        cache.layers.append(blank())
    layer = cache.layers[index]
    if type(layer) is DynamicLayer or type(layer) is DynamicSlidingWindowLayer or isinstance(layer, PrunedLayer):
        return layer
    raise UnsupportedOperationError(
        f"pruning inside the decoder needs dynamic cache layers of full or sliding-window attention, but layer {index} "
        f"of {type(cache).__name__} is a {type(layer).__name__}; use DynamicCache() (cache_implementation='dynamic')"
    )


def convert(cache: Cache, index: int) -> PrunedLayer:
    """Replace the cache's layer by one that can skip tokens, its content kept."""
    layer = layer_of(cache, index)
    if not isinstance(layer, PrunedLayer):
        layer = PrunedSlidingLayer(layer) if isinstance(layer, DynamicSlidingWindowLayer) else PrunedLayer(layer)
        cache.layers[index] = layer
    return layer


def past_slots(layer: PrunedLayer, batch: int, device: torch.device) -> Tensor:
    """Logical index of each stored token, int64 [batch, stored]."""
    if layer.slots is not None:
        return layer.slots.to(device)
    return torch.arange(layer.dropped, layer.get_seq_length(), device=device).expand(batch, -1)
