"""Where a unit's visual tokens sit: host-side geometry, known before any tensor is computed."""

from dataclasses import dataclass

import numpy as np

from vflowopt.arrays import HostBools, HostInts
from vflowopt.errors import BudgetError, InputError


@dataclass(frozen=True, eq=False)
class TokenLayout:
    """Places of the N visual tokens of one unit, in prompt order.

    Attributes:
        position: int64 [N, 3], (view, row, column) in the token's own grid; -1 where structural. A "view" here is one
            token grid: the base crop is one, the stitched high-resolution grid another, each frame of a video one.
    """

    position: HostInts

    def __post_init__(self) -> None:
        if self.position.ndim != 2 or self.position.shape[1] != 3:
            raise InputError(f"token positions must have shape [N, 3], not {self.position.shape}")
        negative = (self.position < 0).any(axis=1)
        if (negative & (self.position != -1).any(axis=1)).any():
            raise InputError("a structural token has position (-1, -1, -1); other positions must be non-negative")

    @property
    def tokens(self) -> int:
        """N, the number of visual tokens, structural ones included."""
        return int(self.position.shape[0])

    @property
    def structural(self) -> HostBools:
        """Mask [N], True for tokens without a patch, such as ``image_newline``: always retained."""
        return np.asarray(self.position[:, 0] < 0)

    def require(self, count: int) -> None:
        """Check that ``count`` retained tokens leave room for the structural ones.

        Raises:
            BudgetError: they do not; names the smallest feasible budget.
        """
        structural = int(self.structural.sum())
        if count < structural:
            raise BudgetError(
                f"a stage keeps {count} of {self.tokens} visual tokens, fewer than the {structural} structural tokens "
                f"(row separators), which are always retained; the smallest feasible cumulative retention for this "
                f"input is {structural / self.tokens:.4f}"
            )
