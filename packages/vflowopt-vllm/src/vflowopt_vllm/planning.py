"""From encoded images to what enters the language model: scored, planned, merged, by the runtime for transformers."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vflowopt import Strategy
from vflowopt.plans.plan import PruningPlan
from vflowopt_hf.family import Unit
from vflowopt_hf.pixels import PixelStatistics
from vflowopt_hf.plans.entering import EnteringRows
from vflowopt_hf.plans.known import KnownPrefills
from vflowopt_hf.plans.merging import merge_rows
from vflowopt_hf.plans.rows import BatchRows, PlacedPlan
from vflowopt_hf.plans.unit_context import UnitContext
from vflowopt_hf.plans.unit_groups import grouped, plan_group
from vflowopt_hf.vision.capture import TorchAttention
from vflowopt_hf.vision.class_rows import ClassRows


def plan_images(
    strategy: Strategy,
    units: Sequence[Unit],
    attention: TorchAttention,
    embeddings: Sequence[Tensor],
    statistics: PixelStatistics,
    known: KnownPrefills,
) -> list[PruningPlan]:
    """Plan images that were encoded together (paper Algorithm 1), each by its own number of tokens.

    Nothing waits for the device: importance that is not finite is not noticed here.

    Args:
        strategy: with one stage, before the language model.
        units: the images.
        attention: over the views of all of them.
        embeddings: [N, features] of each.
        statistics: pixel normalisation to invert for patch entropy.
        known: what earlier images had in common with these.
    """
    table = _table(embeddings, known)
    states = torch.cat(list(embeddings))[None]
    contexts = [
        UnitContext(
            unit=replace(unit, layout=known.layout(unit.layout)),
            attention=attention.views(unit.views, unit.places),
            class_rows=ClassRows(1, ()),
            layers={},
            statistics=statistics,
            entering=EnteringRows(states, table, number),
        )
        for number, unit in enumerate(units)
    ]
    counts = {context: strategy.schedule.counts(context.layout.tokens) for context in contexts}
    plans: dict[UnitContext, PruningPlan] = {}
    with torch.no_grad():
        for group in grouped(strategy, counts):
            planned = plan_group(strategy, group, counts[group[0]])
            plans |= {context: draft.plan for context, (draft, _) in zip(group, planned, strict=True)}
    return [plans[context] for context in contexts]


def retained_rows(embeddings: Sequence[Tensor], plans: Sequence[PruningPlan], known: KnownPrefills) -> Iterator[Tensor]:
    """What enters the language model of each image (paper Eq. 7): [retained, columns] from [N, columns].

    Args:
        embeddings: of each image. All their columns are merged alike: those, too, that deeper layers add.
        plans: of each image.
        known: see :func:`plan_images`.
    """
    table = _table(embeddings, known)
    placed = [PlacedPlan(plan, 0, rows) for plan, rows in zip(plans, table.visual, strict=True)]
    merged = merge_rows(torch.cat(list(embeddings))[None], table, placed)[0]
    for plan, own in zip(plans, merged.split([len(states) for states in embeddings]), strict=True):
        yield own.index_select(0, plan.kept[0])


def _table(embeddings: Sequence[Tensor], known: KnownPrefills) -> BatchRows:
    """All images one after the other, as if they were one prompt without text."""
    sizes = [len(states) for states in embeddings]
    rows = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    present = np.ones((1, sum(sizes)), dtype=bool)
    return known.table([(0, own) for own in rows], present, embeddings[0].device, 0)
