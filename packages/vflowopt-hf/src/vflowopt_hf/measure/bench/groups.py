"""Scoring and planning alone, with units that lie alike taken together, as in a prefill."""

from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor

from vflowopt import Strategy
from vflowopt_hf.plans.unit_context import UnitContext
from vflowopt_hf.plans.unit_groups import SeveralUnits, grouped

Counts = tuple[int, ...]
"""Tokens to retain after each stage."""


def of_each_unit(
    strategy: Strategy,
    counts: Mapping[UnitContext, Counts],
    compute: Callable[..., Tensor],
    known: Mapping[UnitContext, Tensor] | None = None,
) -> dict[UnitContext, Tensor]:
    """What is computed of units, in groups as :func:`vflowopt_hf.plans.prefill.plan_units` makes them.

    Args:
        strategy: by which they are scored and planned.
        counts: of each unit.
        compute: takes a scoring context, the unit's counts, and what is known of it, if anything is.
        known: arrays of one shape for units of one layout.
    """
    found: dict[UnitContext, Tensor] = {}
    for contexts in grouped(strategy, counts):
        own, units = counts[contexts[0]], tuple(contexts)
        given = [] if known is None else [torch.stack([known[context] for context in units])]
        if len(units) == 1:
            found[units[0]] = compute(units[0], own, *(array[0] for array in given))
            continue

        def of_one(
            number: Tensor, *arrays: Tensor, units: tuple[UnitContext, ...] = units, own: Counts = own
        ) -> Tensor:
            return compute(cast("UnitContext", SeveralUnits(units, number)), own, *arrays)

        numbers = torch.arange(len(units), device=units[0].attention.device)
        found |= zip(units, torch.func.vmap(of_one)(numbers, *given).unbind(), strict=True)
    return found
