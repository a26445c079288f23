"""Pruning plans drawn over pixels: how important each visual token is, and what becomes of it.

Every token grid (base crop, high-resolution grid, temporal slice of a video) spans its whole image or frame. An image
becomes a row of two panels per grid; a video a contact sheet of frames. Below each: how many tokens have which fate,
and how many each decoder layer sees.
"""

from vflowopt.picture.draw import Medium, draw_plans
from vflowopt.picture.fates import DROPPED, KEPT, MERGED, RECYCLED, token_fates
from vflowopt.picture.paint import Cells, paint_fates
from vflowopt.picture.sheet import slices

__all__ = [
    "DROPPED",
    "KEPT",
    "MERGED",
    "RECYCLED",
    "Cells",
    "Medium",
    "draw_plans",
    "paint_fates",
    "slices",
    "token_fates",
]
