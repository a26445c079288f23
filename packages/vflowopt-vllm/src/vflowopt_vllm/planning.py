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
from vflowopt_hf.plans.rows import PlacedPlan
from vflowopt_hf.plans.unit_context import UnitContext
from vflowopt_hf.plans.unit_groups import plan_all
from vflowopt_hf.vision.capture import TorchAttention
from vflowopt_hf.vision.class_rows import ClassRows


class EncodedImages:
    """Images that were encoded together, one after the other, as if they were one prompt without text.

    Args:
        embeddings: [N, columns] of each.
        known: what earlier images had in common with these.
    """

    def __init__(self, embeddings: Sequence[Tensor], known: KnownPrefills) -> None:
        self._sizes = [len(states) for states in embeddings]
        rows = np.split(np.arange(sum(self._sizes)), np.cumsum(self._sizes)[:-1])
        present = np.ones((1, sum(self._sizes)), dtype=bool)
        self._table = known.table([(0, own) for own in rows], present, embeddings[0].device, 0)
        self._states, self._known = torch.cat([*embeddings])[None], known

    def plans(
        self,
        strategy: Strategy,
        units: Sequence[Unit],
        attention: TorchAttention,
        features: int,
        statistics: PixelStatistics,
    ) -> list[PruningPlan]:
        """Plan all of them (paper Algorithm 1), each by its own number of tokens.

        Nothing waits for the device: importance that is not finite is not noticed here.

        Args:
            strategy: with one stage, before the language model.
            units: the images.
            attention: over the views of all of them.
            features: columns that the first decoder layer gets; what deeper ones add is not looked at.
            statistics: pixel normalisation to invert for patch entropy.
        """
        states = self._states[..., :features]
        contexts = [
            UnitContext(
                unit=replace(unit, layout=self._known.layout(unit.layout)),
                attention=attention.views(unit.views, unit.places),
                class_rows=ClassRows(1, ()),
                layers={},
                statistics=statistics,
                entering=EnteringRows(states, self._table, number),
            )
            for number, unit in enumerate(units)
        ]
        counts = {context: strategy.schedule.counts(context.layout.tokens) for context in contexts}
        planned = plan_all(strategy, counts)
        return [planned[context][0].plan for context in contexts]

    def retained(self, plans: Sequence[PruningPlan]) -> Iterator[Tensor]:
        """What enters the language model of each (paper Eq. 7): [retained, columns].

        All columns are merged alike: those, too, that deeper layers add.

        Args:
            plans: of each.
        """
        placed = [PlacedPlan(plan, 0, rows) for plan, rows in zip(plans, self._table.visual, strict=True)]
        merged = merge_rows(self._states, self._table, placed)[0]
        for plan, own in zip(plans, merged.split(self._sizes), strict=True):
            yield own.index_select(0, plan.kept[0])
