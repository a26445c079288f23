"""What earlier prefills of a session had in common with one: layouts, and where text and units are in the prompts.

Whatever follows from them alone is then on the device already: nothing is computed anew, and nothing copied there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from vflowopt import TokenLayout
from vflowopt.arrays import HostBools, HostInts
from vflowopt.memory import Memory
from vflowopt_hf.plans.rows import BatchRows

LIMIT = 32
"""How many of each are remembered."""


@dataclass(frozen=True, eq=False)
class KnownPrefills:
    """Layouts and batches that were met before, told by what is in them; threads may share it."""

    _layouts: Memory[TokenLayout] = field(default_factory=lambda: Memory(LIMIT))
    _tables: Memory[BatchRows] = field(default_factory=lambda: Memory(LIMIT))

    def layout(self, layout: TokenLayout) -> TokenLayout:
        """The first layout that was equal to one."""
        return self._layouts.get(layout.position.tobytes(), lambda: layout)

    def table(
        self, places: Sequence[tuple[int, HostInts]], present: HostBools, device: torch.device, following: int
    ) -> BatchRows:
        """Where text and units are in a batch; arguments are those of :class:`vflowopt_hf.plans.rows.BatchRows`."""
        units = tuple((sample, rows.tobytes()) for sample, rows in places)
        key = (units, present.shape, present.tobytes(), device, following)
        return self._tables.get(key, lambda: BatchRows(places, present, device, following))
