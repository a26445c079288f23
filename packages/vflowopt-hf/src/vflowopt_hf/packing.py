"""Views that a vision tower packs into one sequence: how long they are, told by what keeps their attention apart."""

import torch
from torch import Tensor


def packed_lengths(bounds: Tensor | None, mask: object) -> list[int] | None:
    """Positions of each view, if one call of an attention function holds several in a row.

    Args:
        bounds: int [views + 1], where packed views begin and end (``cu_seq_lens_q``), or ``None``.
        mask: the call's attention mask; tells views apart if it is [1, 1, positions, positions], boolean (True is seen)
            or additive, and lets every position see exactly those of its own view.

    Returns:
        Lengths in order; ``None`` if neither argument tells of packed views.
    """
    if bounds is not None:
        lengths: list[int] = bounds.diff().tolist()
        return lengths
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[:2] != (1, 1) or mask.shape[2] != mask.shape[3]:
        return None
    seen = mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] == 0
    first = seen.byte().argmax(dim=1)  # the first position that each one sees: that of its view
    if (first.diff() < 0).any() or not torch.equal(seen, first[:, None] == first):
        return None
    counted: list[int] = first.unique_consecutive(return_counts=True)[1].tolist()
    return counted
