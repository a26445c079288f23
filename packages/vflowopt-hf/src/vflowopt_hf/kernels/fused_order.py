"""Choosing tokens one after the other in one launch: a Triton kernel of which a program does all steps of a unit."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import torch
import triton
import triton.language as tl
from torch import Tensor

# Tokens of a warp, and warps at most: a thread of 16 warps holds 32 of 16,384 tokens, which fit its registers.
_PER_WARP, _WARPS = 256, 16


def choose_greedily(first: Tensor, distance: Tensor, steps: int, worth: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """:func:`vflowopt.components.greedy.choose_greedily` for several units at once, with the same bits.

    Where something is not a number, other tokens may be chosen.

    Args:
        first: float32 [units, n], 0 < n <= 16,384.
        distance: float32 [units, n, n].
        steps: how many to choose of each, at most n.
        worth: as ``first``, or ``None``.

    Returns:
        int64 [units, steps], and float32 [units, n].
    """
    units, tokens = first.shape
    chosen = torch.empty(units, steps, dtype=torch.int64, device=first.device)
    score = torch.empty(units, tokens, device=first.device)
    block = triton.next_power_of_2(tokens)
    first, distance, worth = first.contiguous(), distance.contiguous(), None if worth is None else worth.contiguous()
    with torch.cuda.device_of(first):
        _choose[(units,)](
            first, distance, first if worth is None else worth, chosen, score, tokens, steps, WORTH=worth is not None,
            BLOCK=block, num_warps=warps(block),
        )  # fmt: skip
    return chosen, score


def warps(block: int) -> int:
    """Of a program that holds so many tokens."""
    return min(_WARPS, max(1, block // _PER_WARP))


@triton.jit(do_not_specialize=["tokens", "steps"])
def _choose(
    first, distance, worth, chosen, score, tokens, steps, WORTH: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    unit = tl.program_id(0).to(tl.int64)
    distance += unit * tokens * tokens
    place = tl.arange(0, BLOCK)
    real, own = place < tokens, unit * tokens + place
    now = tl.load(first + own, mask=real, other=-float("inf"))
    nearest = tl.full([BLOCK], float("inf"), tl.float32)
    added = tl.zeros([BLOCK], tl.float32)
    if WORTH:
        added = tl.load(worth + own, mask=real, other=0.0)
    for step in range(steps):
        best = tl.minimum(tl.argmax(now, 0), tokens - 1)  # of what is not a number, any may be called the largest
        tl.store(chosen + unit * steps + step, best.to(tl.int64))
        nearest = tl.minimum(nearest, tl.load(distance + best * tokens + place, mask=real, other=-float("inf")))
        now = nearest
        if WORTH:
            now += added
    tl.store(score + own, now, mask=real)
