"""Dynamic cache layers that store fewer tokens than the model believes it has seen.

Upstream keeps thinking in logical (unpruned) coordinates: pruned layers report logical lengths, so attention masks,
position ids and the slicing of ``input_ids`` work untouched, while keys and values are stored for retained tokens only.
Which logical token each slot holds lives in the cache layer itself, and therefore survives multi-turn use, beam
reordering and batch selection.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.decoder.slots import PrunedState, Slots


class PrunedLayer(PrunedState, DynamicLayer):
    """A dynamic cache layer of which some tokens were never stored."""

    def __init__(self, layer: DynamicLayer) -> None:
        self._adopt(layer)

    def slots_after(self, queries: int, retained: Slots | None, batch: int, device: torch.device) -> Slots:
        """What the layer holds after a forward.

        Args:
            queries: logical tokens of the forward.
            retained: those that are stored, by their rows in the forward; ``None`` if all are.
            batch: number of samples.
            device: where to put the result.
        """
        stored, width, dropped = self.stored_length(), self.width, self.dropped
        parts = [] if self.known is None else [self.known.to(device)]
        if retained is None:
            parts.append(Slots.consecutive(width + dropped, stored + queries + dropped, batch, device))
        else:
            if stored > width:
                parts.append(Slots.consecutive(width + dropped, stored + dropped, batch, device))
            parts.append(retained.shifted(stored + dropped))
        return Slots.joined(parts)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values of retained tokens.

        Raises:
            PruningStateError: called outside ``prune``, whose hooks say which tokens these are.
        """
        if self.permit is None or self.permit.rows != key_states.shape[-2]:
            self._require_expected(key_states.shape[-2])
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        return keys, values

    def get_seq_length(self) -> int:
        """Logical length: the number of tokens the model has seen."""
        return self.stored_length() + self.dropped

    @property
    def width(self) -> int:
        """Number of slots that ``known`` tells of."""
        return 0 if self.known is None else self.known.logical.shape[1]

    def stored_length(self) -> int:
        """Number of slots, filler included."""
        length: int = super().get_seq_length()
        return length

    def slot_count(self, rows: int) -> int:
        """Number of slots that the attention sees when so many are appended."""
        return self.stored_length() + rows

    def reset(self) -> None:
        """Forget everything, the pruning state included."""
        super().reset()
        self._forget()

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end (a negative number, as upstream).

        Raises:
            UnsupportedOperationError: the cut would reach visual tokens.
        """
        self.require_removable(-tokens_to_remove)
        known = self.stored_length() + tokens_to_remove
        super().crop(tokens_to_remove)
        if known < self.width:
            self._select(lambda state: state[:, :known])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sample."""
        super().batch_repeat_interleave(repeats)
        self._select(lambda state: state.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some samples."""
        super().batch_select_indices(indices)
        self._select(lambda state: state[indices.to(state.device)])


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
            UnsupportedOperationError: the cut would reach visual tokens, or back to discarded ones.
        """
        self.require_removable(-tokens_to_remove)
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
        self._select(lambda state: state[:, extra:])
        self.dropped += extra
        self._discarded = True
