"""What enters the decoder of one unit, and of the text that asks about it."""

from dataclasses import dataclass

from torch import Tensor

from vflowopt_hf.plans.rows import BatchRows


@dataclass(frozen=True, eq=False)
class EnteringRows:
    """One unit's share of what enters the decoder.

    Attributes:
        states: [batch, queries, features].
        table: the batch.
        unit: number of the unit in it.
    """

    states: Tensor
    table: BatchRows
    unit: int

    @property
    def own(self) -> Tensor:
        """The unit's rows, [N, features]."""
        return self._taken(self.table.rows[self.unit])

    @property
    def text(self) -> Tensor:
        """The rows of the prompt's text after the unit, or of its last token: [texts, features]."""
        return self._taken(self.table.text_on_device(self.unit))

    @property
    def text_count(self) -> int:
        """How many of these there are."""
        return len(self.table.text(self.unit))

    def _taken(self, rows: Tensor) -> Tensor:
        return self.states[self.table.samples[self.unit]].index_select(0, rows.to(self.states.device))
