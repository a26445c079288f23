"""Muon for the matrices of transformer blocks, AdamW for everything else, one schedule over both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Named = Iterable[tuple[str, nn.Parameter]]


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters that share a peak learning rate and a gradient norm limit of 1."""

    named: tuple[tuple[str, nn.Parameter], ...]
    rate: float


class Optimiser:
    """Several optimisers behind one ``step``; each group's gradient is clipped on its own."""

    def __init__(self, groups: Sequence[Group], muon: bool = True) -> None:
        self._groups = tuple(groups)
        self._parts: list[tuple[torch.optim.Optimizer, float]] = []
        for group in groups:
            matrices = [p for name, p in group.named if muon and p.ndim == 2 and ".layers." in name]
            taken = {id(p) for p in matrices}
            others = [p for _, p in group.named if id(p) not in taken]
            if matrices:
                part = torch.optim.Muon(
                    matrices, lr=group.rate, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"
                )
                self._parts.append((part, group.rate))
            adam = torch.optim.AdamW(others, lr=group.rate, betas=(0.9, 0.97), weight_decay=0.02)
            self._parts.append((adam, group.rate))

    def step(self, share: float) -> None:
        """Clips, steps with ``share`` of the peak rates, and clears the gradients."""
        for group in self._groups:
            nn.utils.clip_grad_norm_([p for _, p in group.named], 1.0)
        for part, rate in self._parts:
            for options in part.param_groups:
                options["lr"] = rate * share
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        """One state per part."""
        return [part.state_dict() for part, _ in self._parts]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Restores what :meth:`state_dict` gave for the same groups."""
        for (part, _), state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)


def share(step: int, steps: int, warmup: int, decay: tuple[float, float] = (0.0, 1.0), floor: float = 0.03) -> float:
    """Share of the peak rate at a step: linear warm-up, times half a cosine from 1 at 0 down to ``floor`` at 1.

    ``decay`` says which part of the half cosine the steps cover.
    """
    progress = decay[0] + (decay[1] - decay[0]) * step / steps
    return min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
