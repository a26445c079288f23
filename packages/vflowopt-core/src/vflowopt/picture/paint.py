"""Importance and fates as colours over pixels.

Colours are from Okabe and Ito's palette and viridis, which colour-blind readers can tell apart; fates also differ in
brightness and pattern.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from vflowopt.arrays import HostInts, to_numpy
from vflowopt.picture.fates import DROPPED, MERGED, RECYCLED
from vflowopt.plans.plan import PruningPlan

Pixels = npt.NDArray[np.float64]
Color = tuple[int, int, int]

BLUE: Color = (0, 114, 178)
ORANGE: Color = (230, 159, 0)
LATER: tuple[Color, ...] = ((213, 94, 0), (204, 121, 167), (240, 228, 66), (0, 158, 115))
"""Tints of tokens dropped at the second, third, ... stage."""
VIRIDIS: Pixels = np.array(
    [(68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129), (92, 200, 99),
     (170, 220, 50), (253, 231, 37)], dtype=np.float64
)  # fmt: skip


@dataclass(frozen=True)
class Cells:
    """A grid laid over a panel: for each pixel the token it belongs to."""

    token: HostInts  # [height, width], index into the plan's tokens
    rows: int
    columns: int

    @classmethod
    def of(cls, plan: PruningPlan, grid: int, size: tuple[int, int]) -> "Cells":
        """Spread the grid over a panel of (width, height) pixels."""
        members = np.flatnonzero(plan.position[:, 0] == grid)
        place = plan.position[members, 1:]
        rows, columns = (int(extent) + 1 for extent in place.max(axis=0))
        table = np.full((rows, columns), members[0], dtype=np.int64)
        table[place[:, 0], place[:, 1]] = members
        width, height = size
        row, column = np.arange(height) * rows // height, np.arange(width) * columns // width
        return cls(table[row[:, None], column[None, :]], rows, columns)

    def borders(self, values: HostInts) -> npt.NDArray[np.bool_]:
        """Pixels [height, width] at which per-token ``values`` change to the right or below."""
        own = values[self.token]
        edge = np.zeros(own.shape, dtype=bool)
        edge[:-1] |= own[:-1] != own[1:]
        edge[:, :-1] |= own[:, :-1] != own[:, 1:]
        return edge

    def inset(self, margin: int) -> npt.NDArray[np.bool_]:
        """Pixels nearer than ``margin`` to the border of their own cell."""
        near = np.zeros(self.token.shape, dtype=bool)
        for shift in range(1, margin + 1):
            near[:-shift] |= self.token[:-shift] != self.token[shift:]
            near[shift:] |= self.token[:-shift] != self.token[shift:]
            near[:, :-shift] |= self.token[:, :-shift] != self.token[:, shift:]
            near[:, shift:] |= self.token[:, :-shift] != self.token[:, shift:]
        near[:margin] = near[-margin:] = True
        near[:, :margin] = near[:, -margin:] = True
        return near


def paint_importance(plan: PruningPlan, cells: Cells, pixels: Pixels) -> Pixels:
    """Viridis by rank among the unit's tokens over the darkened gray image."""
    importance = to_numpy(plan.importance).astype(np.float64)
    scored = ~plan.structural
    rank = np.zeros(plan.tokens)
    rank[np.flatnonzero(scored)[np.argsort(importance[scored], kind="stable")]] = np.linspace(0, 1, int(scored.sum()))
    place = rank[cells.token] * (len(VIRIDIS) - 1)
    low = np.minimum(place.astype(np.int64), len(VIRIDIS) - 2)
    share = (place - low)[..., None]
    color = VIRIDIS[low] * (1 - share) + VIRIDIS[low + 1] * share
    blended: Pixels = 0.72 * color + 0.28 * gray(pixels)
    return blended


def paint_fates(fate: HostInts, cells: Cells, pixels: Pixels) -> Pixels:
    """Kept tokens as they are; recycled ones framed; merged ones blue; dropped ones dark or tinted and hatched."""
    own, faded = fate[cells.token], gray(pixels)
    painted = pixels.copy()
    row, column = np.indices(own.shape)
    merged = own == MERGED
    painted[merged] = (0.3 * faded + 0.5 * np.array(BLUE))[merged]
    for value in np.unique(own[own >= DROPPED]):
        gone, stage = own == value, int(value) - DROPPED
        if stage == 0:
            painted[gone] = (0.22 * faded + 18)[gone]
            continue
        tint = np.array(LATER[(stage - 1) % len(LATER)])
        hatch = ((row + column if stage % 2 else row - column) // 4) % 2 == 0
        painted[gone] = np.where(hatch[..., None], 0.15 * faded + 0.85 * tint, 0.6 * faded + 0.2 * tint)[gone]
    painted[cells.borders(np.arange(len(fate)))] *= 0.82
    painted[cells.inset(max(2, min(own.shape) // 150)) & (own == RECYCLED)] = ORANGE
    return painted


def gray(pixels: Pixels) -> Pixels:
    """Gray levels in three equal channels."""
    return np.repeat(pixels.mean(axis=-1, keepdims=True), 3, axis=-1)


def to_picture(pixels: Pixels) -> Image.Image:
    """Floating-point pixels [height, width, 3] in 0..255 as an image."""
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))
