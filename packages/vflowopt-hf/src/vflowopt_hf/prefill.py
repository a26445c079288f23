"""From a backbone's inputs to placed plans: find units, score them, plan them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vflowopt import Strategy
from vflowopt.arrays import HostBools, HostInts, to_numpy
from vflowopt.components import Score
from vflowopt.errors import InputError, UnsupportedOperationError
from vflowopt_hf.capture import TorchAttention, VisionCapture, rows_of
from vflowopt_hf.family import Family, Unit
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.rows import PlacedPlan


@dataclass(frozen=True, eq=False)
class PlacedUnit:
    """A unit with its place in the batch: sample, and the row of each of its visual tokens."""

    unit: Unit
    sample: int
    rows: HostInts


@dataclass(frozen=True, eq=False)
class UnitContext:
    """A :class:`vflowopt.components.ScoringContext` over one unit of a forward."""

    placed: PlacedUnit
    attention: TorchAttention
    statistics: PixelStatistics

    @property
    def entropy(self) -> Tensor:
        """Patch entropy, float32 [views, patches]."""
        return self.placed.unit.entropy(self.statistics)

    def to_tokens(self, patch_map: Tensor) -> Tensor:
        """float32 [N] from [views, patches]."""
        return self.placed.unit.to_tokens(patch_map.float())


@dataclass(frozen=True, eq=False)
class Prefill:
    """A forward that brings visual tokens.

    Attributes:
        units: in prompt order (sample, then row).
        present: bool [batch, queries], False for padding.
    """

    units: tuple[PlacedUnit, ...]
    present: HostBools

    def contexts(self, capture: VisionCapture, statistics: PixelStatistics) -> list[UnitContext]:
        """One scoring context per unit, from what the vision attention did in this forward.

        Raises:
            UnsupportedOperationError: the vision tower did not run, because features came ready-made.
        """
        calls = 1 + max((placed.unit.call for placed in self.units), default=-1)
        if len(capture.calls) != calls:
            raise UnsupportedOperationError(
                f"the vision tower's attention ran {len(capture.calls)} times where {calls} were expected; precomputed "
                f"features (mm_encoder_outputs) carry no attention, so pass pixel values instead"
            )
        return [
            UnitContext(placed, rows_of(capture.calls[placed.unit.call], placed.unit.views), statistics)
            for placed in self.units
        ]


def find_units(family: Family, model: Any, inputs: Mapping[str, Any]) -> Prefill | None:
    """Units of a backbone forward and where their tokens are; ``None`` if the forward brings no pixels.

    Raises:
        InputError: the prompt's placeholders do not match the pixels.
        UnsupportedOperationError: no token ids, or a mask that is not 2-dimensional.
    """
    units = family.units(model, inputs)
    if not units:
        return None
    ids = inputs.get("input_ids")
    if not isinstance(ids, Tensor):
        raise UnsupportedOperationError("pruning finds visual tokens by input_ids; pass them, not inputs_embeds")
    mask = inputs.get("attention_mask")
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        raise UnsupportedOperationError(
            "pruning needs a 2-dimensional attention_mask, as the processor makes it, or none"
        )
    host_ids: HostInts = ids.cpu().numpy()
    queries = host_ids.shape[1]
    present = np.ones(host_ids.shape, dtype=bool) if mask is None else mask[:, -queries:].cpu().numpy().astype(bool)
    placed: list[PlacedUnit] = []
    for modality, token in family.placeholder_ids(model).items():
        flat = np.flatnonzero(host_ids == token)
        own = [unit for unit in units if unit.modality == modality]
        expected = sum(unit.layout.tokens for unit in own)
        if len(flat) != expected:
            raise InputError(
                f"the prompt holds {len(flat)} {modality} tokens in this forward, but its pixels make {expected}; pass "
                f"whole prompts as the processor made them (chunked prefill is not supported while pruning)"
            )
        start = 0
        for unit in own:
            rows = flat[start : start + unit.layout.tokens]
            start += unit.layout.tokens
            sample = int(rows[0]) // queries
            if int(rows[-1]) // queries != sample:
                raise InputError(f"the tokens of one {modality} are spread over two samples of the batch")
            placed.append(PlacedUnit(unit, sample, rows - sample * queries))
    placed.sort(key=lambda entry: (entry.sample, int(entry.rows[0])))
    return Prefill(tuple(placed), present)


@dataclass(frozen=True, eq=False)
class ScoredUnit:
    """A unit's plan and what the scorer had to say about it."""

    placed: PlacedPlan
    score: Score

    def details(self) -> dict[str, tuple[int, ...]]:
        """The scorer's details on the host."""
        return {name: tuple(np.atleast_1d(to_numpy(value)).tolist()) for name, value in self.score.details.items()}


def plan_units(strategy: Strategy, contexts: Sequence[UnitContext]) -> list[ScoredUnit]:
    """Score and plan every unit (paper Algorithm 1).

    Raises:
        ImportanceError: an importance map is not finite or has the wrong shape.
        BudgetError: a stage keeps fewer tokens than a unit's structural ones.
    """
    scored = []
    for context in contexts:
        unit = context.placed.unit
        # Counts first: an infeasible budget is reported before anything is computed.
        for count in strategy.schedule.counts(unit.layout.tokens):
            unit.layout.require(count)
        with torch.no_grad():
            score = strategy.scorer.score(context)
            plan = strategy.plan(score.importance, unit.layout)
        scored.append(ScoredUnit(PlacedPlan(plan, context.placed.sample, context.placed.rows), score))
    return scored
