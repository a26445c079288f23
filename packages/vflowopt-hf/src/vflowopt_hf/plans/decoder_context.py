"""What a scorer sees of a decoder layer: a view on one unit's share of its attention."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from vflowopt import TokenLayout
from vflowopt.arrays import HostInts, asarray_like
from vflowopt.components.stage_scoring import Heads
from vflowopt_hf.plans.decoder_attention import AttentionCall
from vflowopt_hf.plans.rows import BatchRows, StageRows, token_states


@dataclass(frozen=True, eq=False)
class DecoderContext:
    """A :class:`vflowopt.components.stage_scoring.StageContext` over one unit.

    Attributes:
        layout: places of the unit's visual tokens.
        table: the batch.
        unit: number of the unit in it.
        call: the attention of a layer.
        entered: [batch, queries, features], what entered the decoder.
        stage: rows that the layer ran with; ``None`` for all.
        entering: [batch, rows, features], what enters the layer after it; ``None`` where nobody asks for it.
    """

    layout: TokenLayout
    table: BatchRows
    unit: int
    call: AttentionCall
    entered: Tensor
    stage: StageRows | None = None
    entering: Tensor | None = None

    @property
    def _sample(self) -> int:
        return self.table.samples[self.unit]

    @property
    def last(self) -> HostInts:
        """Position of the prompt's last token."""
        return self.table.last(self.unit)

    @property
    def text(self) -> HostInts:
        """Positions of the prompt's text tokens after the unit."""
        return self.table.text(self.unit)

    @property
    def visual(self) -> HostInts:
        """Positions of the unit's tokens."""
        return self.table.visual[self.unit]

    def embeddings(self, positions: HostInts) -> Tensor:
        """What entered the decoder at some positions, float32 [positions, features]."""
        return self.entered[self._sample].to(self.call.query.device)[self.place(positions)].float()

    def hidden(self, tokens: Tensor) -> Tensor:
        """What enters the next layer of some of the unit's tokens, float32 [tokens, features]."""
        assert self.entering is not None
        return token_states(self.entering, self._sample, self.table.rows[self.unit], self.stage, tokens)

    @property
    def left(self) -> Tensor:
        """Which of the unit's tokens were not pruned before: bool [N]."""
        rows = self.table.rows[self.unit].to(self.call.query.device)
        if self.stage is None:
            return torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        logical = self.stage.logical[self._sample].to(rows.device)
        here = torch.ones_like(logical, dtype=torch.bool)
        if self.stage.valid is not None:
            here = self.stage.valid[self._sample].to(rows.device)
        return torch.zeros(self.table.queries, dtype=torch.bool, device=rows.device).scatter(0, logical, here)[rows]

    def states(self, positions: HostInts) -> Tensor:
        """What enters the next layer at some positions, float32 [positions, features]."""
        assert self.entering is not None
        return self.entering[self._sample].to(self.call.query.device)[self._places(positions)].float()

    def keys(self, positions: HostInts) -> Tensor:
        """Keys at some positions, float32 [positions, key heads * head_dim]."""
        return self._heads(self.call.key, positions)

    def values(self, positions: HostInts) -> Tensor:
        """Values at some positions, float32 [positions, key heads * head_dim]."""
        assert self.call.value is not None
        return self._heads(self.call.value, positions)

    def _heads(self, slots: Tensor, positions: HostInts) -> Tensor:
        rows = slots[self._sample, :, slots.shape[2] - self.call.query.shape[2] :]
        return rows[:, self._places(positions)].transpose(0, 1).flatten(1).float()

    def _places(self, positions: HostInts) -> Tensor:
        """Where positions are among the rows that the layer ran with."""
        rows = self.place(positions)
        return rows if self.stage is None else self.stage.places(self._sample, rows)

    def received(self, queries: HostInts, weights: Tensor | None = None, *, heads: Heads = "mean") -> Tensor:
        """Attention that the unit's tokens receive from some positions, float32 [N]."""
        device, positions = self.call.query.device, self.table.queries
        factors = torch.ones(len(queries), device=device) if weights is None else weights.to(device, torch.float32)
        factor = torch.zeros(positions, device=device).scatter(0, self.place(queries), factors)
        logical = torch.arange(positions, device=device)
        if self.stage is not None:
            logical = self.stage.logical[self._sample].to(device)
            factor = factor[logical]
            if self.stage.valid is not None:
                factor = factor * self.stage.valid[self._sample].to(device)
        # Rows that count come first in this order; there are no more of them than queries.
        rows = (factor == 0).to(torch.uint8).argsort(stable=True)[: len(queries)]
        received = self.call.received(self._sample, rows, factor[rows], heads)[-len(logical) :]
        everywhere = torch.zeros(positions, device=device).scatter(0, logical, received)
        return everywhere[self.table.rows[self.unit].to(device)]

    def received_by_head(self, queries: HostInts, weights: Tensor) -> Tensor:
        """What each head gives to the unit's tokens from some positions that are left, float32 [heads, N]."""
        call, own = self.call, self._places(self.visual)
        slots = own + (call.key.shape[2] - call.query.shape[2])  # rows are the last of the slots
        return call.received_by_head(self._sample, self._places(queries), slots, weights * self.left)

    def rotary_closeness(self, queries: HostInts) -> Tensor:
        """Similarity that rotary positions alone leave some positions and the unit's tokens, float32 [queries, N]."""
        device, size = self.call.query.device, self.call.query.shape[-1]
        if self.call.rotary is None:
            return torch.ones(len(queries), len(self.visual), device=device)
        asked = self.table.rows[self.unit].to(device)
        return self.call.rotary.closeness(self._sample, self.place(queries), asked, size)

    def place(self, host: npt.NDArray[Any]) -> Tensor:
        """A host array as a tensor where the attention is; its copy is not waited for."""
        placed: Tensor = asarray_like(host, self.call.query)
        return placed
