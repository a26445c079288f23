"""The static cache layer that stores fewer tokens than the model believes it has seen.

See :mod:`vflowopt_hf.decoder.cache`.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import StaticLayer

from vflowopt_hf.decoder.slots import PrunedState, Slots


class PrunedStaticLayer(PrunedState, StaticLayer):
    """A static cache layer of which some tokens were never stored, and which has no room for them.

    Upstream's layer has room for ``max_cache_len`` logical tokens. This one has room for those that remain when the
    dropped ones are taken off, so prompt and answer may be as long as without pruning. All that changes from one
    decoding step to the next is in tensors, in place, as upstream: a compiled step is compiled once.

    ``known`` covers the whole room: where the tokens to come will be is certain.
    """

    is_croppable = True

    def __init__(self, layer: StaticLayer) -> None:
        self._adopt(layer)
        self._longest: int = layer.max_cache_len

    def slots_after(self, queries: int, retained: Slots | None, batch: int, device: torch.device) -> Slots:
        """What the layer's room holds after a forward, and will hold later: see :meth:`PrunedLayer.slots_after`."""
        room = self._longest - self.dropped
        held = self.known or Slots.consecutive(self.dropped, self._longest, batch, device)
        if retained is None:
            return held
        skipped = queries - retained.logical.shape[1]
        room -= skipped
        start = self.stored_length().to(device)
        place = torch.arange(room, device=device)
        rows = torch.arange(retained.logical.shape[1], device=device) + start
        later = place + (self.dropped + skipped)
        logical = torch.where(place < start, held.logical[:, :room], later).index_copy(
            1, rows, retained.logical + (start + self.dropped)
        )
        valid, bias = None, None
        if held.valid is not None or retained.valid is not None:
            valid = (held.known_valid[:, :room] | (place >= start)).index_copy(1, rows, retained.known_valid)
        if held.bias is not None or retained.bias is not None:
            bias = (held.known_bias[:, :room] * (place < start)).index_copy(1, rows, retained.known_bias)
        return Slots(logical, valid, bias)

    def skip(self, slots: Slots, skipped: int, fixed: int, stage: int) -> None:
        """See :meth:`PrunedState.skip`; gives back the room of the tokens that will not be stored."""
        super().skip(slots, skipped, fixed, stage)
        self.max_cache_len = self._longest - self.dropped

    def _shortened(self, states: Tensor) -> Tensor:
        left = states[:, :, : self.max_cache_len].clone()
        torch._dynamo.mark_static_address(left)
        return left

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write keys and values of retained tokens behind what is stored; gives all of the room.

        Raises:
            PruningStateError: called outside ``prune``, whose hooks say which tokens these are.
        """
        self._require_expected(key_states.shape[-2])
        # Not before: an offloaded cache has its states in place only now.
        if self.keys is not None and self.values is not None and self.keys.shape[2] > self.max_cache_len:
            self.keys, self.values = self._shortened(self.keys), self._shortened(self.values)
        keys, values = super().update(key_states, value_states, *args, **kwargs)
        return keys, values

    def get_seq_length(self) -> Any:
        """Logical length: the number of tokens the model has seen; a tensor, as upstream, once there are any."""
        return self.cumulative_length + self.dropped if self.is_initialized else 0

    def stored_length(self) -> Tensor:
        """Number of slots in use, filler included: int64, without an axis, on the layer's device."""
        return self.cumulative_length

    def slot_count(self, rows: int) -> int:  # noqa: ARG002
        """Number of slots that the attention sees: all, used or not."""
        return self.max_cache_len

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
        """Number of logical tokens in the unpruned layer's mask, and the first of them."""
        return self._longest, 0

    def get_max_length(self) -> int:
        """As the unpruned layer."""
        return self._longest

    def reset(self) -> None:
        """Forget everything, the pruning state included: the next prompt may need more room than this one."""
        super().reset()
        self._forget()
        self.keys = self.values = None
        self.is_initialized, self.max_cache_len = False, self._longest

    def crop(self, tokens_to_remove: int) -> None:
        """Remove tokens from the end (a negative number), whose slots are then written anew.

        Raises:
            ValueError: a positive number, as upstream.
            UnsupportedOperationError: the cut would reach visual tokens.
        """
        if tokens_to_remove > 0:
            raise ValueError(f"crop takes how many tokens to remove as a negative number, not {tokens_to_remove}")
        self.require_removable(-tokens_to_remove)
        self.cumulative_length.sub_(-tokens_to_remove)
