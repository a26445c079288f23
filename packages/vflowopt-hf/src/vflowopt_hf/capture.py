"""Observe one vision attention module without changing what it computes.

While a capture is open, the module has a copy of its config that selects a wrapper attention function. The wrapper
notes query and key and calls whatever implementation was configured, so the vision tower's output stays bitwise the
same with eager, sdpa, flash or any other attention.
"""

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from vflowopt.errors import UnsupportedModelError

# Scores held at once, in elements: 16 MiB of float32. Bounds memory whatever the number of patches.
_BLOCK = 1 << 22


class TorchAttention:
    """Streams attention received per patch from query and key (see :class:`vflowopt.attention.AttentionSource`).

    Args:
        query: [views, heads, positions, head_dim], after any rotary embedding.
        key: [views, key heads, positions, head_dim].
        scaling: factor of the scores.
        class_tokens: leading positions that are no patches: seen by the softmax, excluded from the result.
    """

    def __init__(self, query: Tensor, key: Tensor, scaling: float, class_tokens: int = 0) -> None:
        self._query, self._key = query.detach(), key.detach()
        self._scaling, self._class_tokens = scaling, class_tokens

    def views(self, rows: slice) -> "TorchAttention":
        """The source of some of the views."""
        return TorchAttention(self._query[rows], self._key[rows], self._scaling, self._class_tokens)

    @property
    def device(self) -> torch.device:
        """Where query and key are."""
        return self._query.device

    def received(self, queries: Tensor | None = None, at_most: int | None = None) -> Tensor:
        """See :meth:`vflowopt.attention.AttentionSource.received`; never holds heads x patches x patches."""
        first = self._class_tokens
        query = self._query[:, :, first:]
        weight = None if queries is None else queries.float()
        if weight is not None and at_most is not None and at_most < query.shape[2]:
            # The selected rows come first in this order, so the first `at_most` rows hold them all.
            rows = weight.argsort(dim=-1, descending=True, stable=True)[:, : max(at_most, 1)]
            weight = weight.gather(1, rows)
            query = query.gather(2, rows[:, None, :, None].expand(-1, query.shape[1], -1, query.shape[3]))
        return torch.stack(
            [
                self._column_sums(query[view], self._key[view], None if weight is None else weight[view])[first:]
                for view in range(query.shape[0])
            ]
        )

    def _column_sums(self, query: Tensor, key: Tensor, weight: Tensor | None) -> Tensor:
        """Weighted sum over query rows and mean over heads of the softmax of one view, float32 [positions]."""
        heads, rows, _ = query.shape
        positions = key.shape[1]
        keys = key.float().repeat_interleave(heads // key.shape[0], dim=0).transpose(1, 2)
        total = torch.zeros(positions, device=query.device)
        step = max(1, _BLOCK // (heads * positions))
        for start in range(0, rows, step):
            scores = (query[:, start : start + step].float() * self._scaling) @ keys
            attention = scores.softmax(dim=-1)
            if weight is not None:
                attention = attention * weight[None, start : start + step, None]
            total += attention.sum(dim=(0, 1))
        return total / heads


@dataclass
class VisionCapture:
    """Receives what the observed module does while a recording is open."""

    class_tokens: int
    _calls: list[TorchAttention] | None = None

    @contextmanager
    def recording(self) -> Iterator[list[TorchAttention]]:
        """The list fills with one source per call of the module inside the block."""
        calls: list[TorchAttention] = []
        self._calls = calls
        try:
            yield calls
        finally:
            self._calls = None

    def note(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Record one call of the module."""
        if self._calls is not None:
            self._calls.append(TorchAttention(query, key, scaling, self.class_tokens))


@contextmanager
def capture_attention(module: nn.Module, class_tokens: int = 0) -> Iterator[VisionCapture]:
    """Observe ``module`` inside the block; its config is put back on exit.

    Args:
        module: an attention module of transformers that reads ``config._attn_implementation`` at every call.
        class_tokens: leading positions of the sequence that are no patches.

    Raises:
        UnsupportedModelError: the module has no config to select an attention function by.
    """
    original = getattr(module, "config", None)
    implementation = getattr(original, "_attn_implementation", None)
    if original is None or implementation is None:
        raise UnsupportedModelError(
            f"{type(module).__name__} does not select its attention through config._attn_implementation"
        )
    # The eager function is each modeling file's own; every other implementation is found by name.
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    base = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)
    capture = VisionCapture(class_tokens)

    def observe(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> Any:
        scaling = kwargs.get("scaling")
        capture.note(query, key, query.shape[-1] ** -0.5 if scaling is None else scaling)
        return base(module, query, key, *args, **kwargs)

    name = f"vflowopt-capture-{id(capture)}"
    config = copy.copy(original)
    config._attn_implementation_internal = name  # the public setter would check the name against the hub
    ALL_ATTENTION_FUNCTIONS[name] = observe
    module.config = config
    try:
        yield capture
    finally:
        module.config = original
        del ALL_ATTENTION_FUNCTIONS[name]
