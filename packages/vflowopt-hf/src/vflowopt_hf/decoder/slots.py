"""Which tokens the slots of a pruned cache layer hold: state that every kind of such a layer has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from vflowopt.errors import PruningStateError, UnsupportedOperationError

OUTSIDE = (
    "this KV cache was filled while visual tokens were pruned, and can only be continued inside "
    "`with prune(model, strategy):`; enter it again, or start from a fresh cache"
)
"""Why a pruned cache is refused where no hooks say which tokens it lacks."""


@dataclass(frozen=True, eq=False)
class Slots:
    """Tokens in the order in which they are stored.

    Attributes:
        logical: int64 [batch, slots], index of each token in the unpruned sequence, or in one forward of it.
        valid: bool [batch, slots], False for filler of samples that retain fewer tokens; ``None`` if all are valid.
        bias: float32 [batch, slots], what is added to the attention logits of their keys; ``None`` if nothing.
    """

    logical: Tensor
    valid: Tensor | None = None
    bias: Tensor | None = None

    @classmethod
    def consecutive(cls, start: int, end: int, batch: int, device: torch.device) -> "Slots":
        """Tokens ``start`` to ``end - 1`` of every sample."""
        return cls(torch.arange(start, end, device=device).expand(batch, -1))

    @classmethod
    def joined(cls, parts: Sequence["Slots"]) -> "Slots":
        """One part after the other; at least one."""
        if len(parts) == 1:
            return parts[0]
        logical, valid, bias = torch.cat([part.logical for part in parts], dim=1), None, None
        if any(part.valid is not None for part in parts):
            valid = torch.cat([part.known_valid for part in parts], dim=1)
        if any(part.bias is not None for part in parts):
            bias = torch.cat([part.known_bias for part in parts], dim=1)
        return cls(logical, valid, bias)

    @property
    def known_valid(self) -> Tensor:
        """``valid``, never ``None``."""
        return torch.ones_like(self.logical, dtype=torch.bool) if self.valid is None else self.valid

    @property
    def known_bias(self) -> Tensor:
        """``bias``, never ``None``."""
        return torch.zeros_like(self.logical, dtype=torch.float32) if self.bias is None else self.bias

    def each(self, change: Callable[[Tensor], Tensor]) -> "Slots":
        """The same change of all tensors."""
        valid, bias = (None if part is None else change(part) for part in (self.valid, self.bias))
        return Slots(change(self.logical), valid, bias)

    def shifted(self, by: int | Tensor) -> "Slots":
        """The same tokens, counted from another origin."""
        if isinstance(by, int) and not by:
            return self
        return replace(self, logical=self.logical + by)

    def to(self, device: torch.device) -> "Slots":
        """The same on another device."""
        return self.each(lambda state: state.to(device))


@dataclass(eq=False)
class Permit:
    """What all pruned layers of one cache let a decoding step do, so that nobody has to tell each of them.

    Attributes:
        plain: whether a step that is given no mask sees in every layer what it should.
        rows: how many rows the step that runs appends to each; ``None`` if none runs.
    """

    plain: bool
    rows: int | None = None


class PrunedState(CacheLayerMixin):
    """What a cache layer of which some tokens were never stored knows about them, besides its keys and values.

    Attributes:
        known: the tokens of the first slots; those that follow are consecutive. ``None``: all are.
        dropped: logical length minus stored length: tokens never stored, or discarded.
        history: stages that produced the layer's content, -1 for a pruned prefill of which the layer holds all;
            layers with equal history hold the same tokens.
        permit: of the cache, from the first decoding step after a pruned prefill on.
        fixed: logical length that no cut may go below: there the text after the last visual token begins. All of a
            sample's text is stored, so the layer can be cut within it as if nothing had been pruned.
    """

    known: Slots | None
    dropped: int
    history: tuple[int, ...]
    fixed: Any
    permit: Permit | None
    _expected: int | None

    def _adopt(self, layer: Any) -> None:
        # Adopts the stored states; assigning __class__ would keep the subclass's missing attributes missing.
        self.__dict__.update(layer.__dict__)
        self._expected = None
        self._forget()

    def _forget(self) -> None:
        self.known, self.dropped, self.history, self.fixed, self.permit = None, 0, (), 0, None

    @property
    def is_plain(self) -> bool:
        """Whether a query that sees all that is stored sees what it should: no filler, and no key has a bias."""
        return self.known is None or (self.known.valid is None and self.known.bias is None)

    def expect(self, rows: int) -> None:
        """Let the next update append so many rows."""
        self._expected = rows

    def skip(self, slots: Slots, skipped: int, fixed: int, stage: int) -> None:
        """State what the next update does in a pruned prefill.

        Args:
            slots: what the layer holds afterwards.
            skipped: tokens of the forward that are not stored.
            fixed: tokens of the forward before the text at its end.
            stage: number of the stage.
        """
        self.hold(fixed, stage)
        self.known, self.dropped = slots, self.dropped + skipped

    def hold(self, fixed: int, stage: int = -1) -> None:
        """State that the next update is that of a pruned prefill, of which the layer may hold all tokens.

        Such a layer is then continued and cut where the others can be, or not at all: else a refusal by one of them
        would come when the layers before it have changed already.
        """
        self.fixed, self.history, self.permit = self.get_seq_length() + fixed, (*self.history, stage), None

    def _require_expected(self, rows: int) -> None:
        if self.history and self._expected != rows:
            raise PruningStateError(OUTSIDE)
        self._expected = None

    def require_removable(self, tokens: int) -> None:
        """Check that so many tokens at the end are all stored; waits for the device where the length is on it.

        Raises:
            UnsupportedOperationError: the cut would reach visual tokens.
        """
        if not self.history or not tokens:
            return
        removable = int(self.get_seq_length() - self.fixed)
        if tokens > removable:
            raise UnsupportedOperationError(
                f"cannot remove {tokens} tokens from a pruned KV cache: only the last {removable}, which follow the "
                f"last image, can be removed; start from a fresh cache, or from a copy.deepcopy() made before it"
            )

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Reorder the batch, as beam search does."""
        super().reorder_cache(beam_idx)
        self._select(lambda state: state.index_select(0, beam_idx.to(state.device)))

    def _select(self, choose: Callable[[Tensor], Tensor]) -> None:
        self.known = None if self.known is None else self.known.each(choose)
