"""Drawn units as scorers see them, on either backend; only what is listed may be looked at."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from support.backends import to_backend
from vflowopt.components.greedy import choose_greedily


@dataclass
class Unit:
    """A drawn unit on one of the backends; only what is listed may be looked at."""

    unit: Any
    backend: str
    offered: tuple[str, ...]

    def __getattr__(self, name):
        assert name in self.offered, f"{name} is not in `needs`"
        value = getattr(self.unit, name)
        if name == "attention":
            return Received(value, self.backend)
        if name == "layer_attention":
            return lambda layer: Received(value(layer), self.backend)
        return value if isinstance(value, int) else to_backend(value, self.backend)

    @property
    def layout(self):
        return self.unit.layout

    def place(self, values):
        return to_backend(values, self.backend)

    def to_tokens(self, patch_map):
        return to_backend(self.unit.shares, self.backend) @ patch_map.reshape(-1)

    @property
    def choose_greedily(self):
        return choose_greedily


class Received:
    """Attention of a drawn unit, on one of the backends."""

    def __init__(self, source, backend):
        self.values = to_backend(source.received(), backend)

    def received(self, queries=None, at_most=None):
        return self.values


def tokens_of(unit, patch_map):
    """A map over patches as one over tokens, float64."""
    return unit.shares.astype(np.float64) @ patch_map.astype(np.float64).reshape(-1)
