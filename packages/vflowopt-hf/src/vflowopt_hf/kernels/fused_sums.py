"""Column sums of softmax attention on the tensor cores of a GPU: Triton kernels that never write a score to memory.

Scores are products in the dtype of query and key, accumulated in float32, like those of the tower's own attention. The
first pass finds the normaliser of each row, the second the sums of its columns. A program owns a block of rows, or of
columns, and goes through the others in order: the same input gives the same bits, and no program waits for another.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows that a program owns, and columns that it takes at once; then columns that it owns, and rows that it takes. Of six
# pairs with two to three stages and four or eight warps the fastest on an H200, for heads of 72 and 80.
_NORMALISE, _SUM = {"OWN": 128, "OTHER": 64}, {"OWN": 64, "OTHER": 128}
_LAUNCH = {"num_warps": 4, "num_stages": 3}


def row_normalisers(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """See :meth:`vflowopt_hf.kernels.fusing.ColumnSums.row_normalisers`: binary logarithms, on CUDA."""
    query, key = _rows(query), _rows(key)
    views, heads, rows, width = query.shape
    result = torch.empty(views, heads, rows, device=query.device)
    with torch.cuda.device_of(query):
        _normalise[(triton.cdiv(rows, _NORMALISE["OWN"]), views * heads)](
            query, key, result, scaling * math.log2(math.e), rows, key.shape[2], *query.stride()[:3], *key.stride()[:3],
            heads, heads // key.shape[1], width, *_halves(width), **_NORMALISE, **_LAUNCH,
        )  # fmt: skip
    return result


def column_sums(
    query: Tensor, key: Tensor, scaling: float, normalisers: Tensor, chosen: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """See :meth:`vflowopt_hf.kernels.fusing.ColumnSums.column_sums`; on CUDA."""
    query, key = _rows(query), _rows(key)
    (views, heads, rows, width), positions = query.shape, key.shape[2]
    result = torch.empty(views, heads, positions, device=query.device)
    index, counts = (normalisers, normalisers) if chosen is None else (chosen[0].contiguous(), chosen[1])
    with torch.cuda.device_of(query):
        _sum_columns[(triton.cdiv(positions, _SUM["OWN"]), views * heads)](
            query, key, normalisers, index, counts, result, scaling * math.log2(math.e), rows, positions,
            index.shape[-1], *query.stride()[:3], *key.stride()[:3], heads, heads // key.shape[1], chosen is not None,
            width, *_halves(width), **_SUM, **_LAUNCH,
        )  # fmt: skip
    return result.mean(dim=1)


def _rows(states: Tensor) -> Tensor:
    return states if states.stride(-1) == 1 else states.contiguous()


def _halves(width: int) -> tuple[int, int]:
    """Two powers of two that hold a head together, the second perhaps 0: 72 and 80 are 64 and 16, not 128."""
    first = 1 << (width.bit_length() - 1)
    rest = triton.next_power_of_2(max(16, width - first)) if width > first else 0
    return (first, rest) if first >= 16 and first + rest < 2 * first else (triton.next_power_of_2(max(16, width)), 0)


@triton.jit
def _load(base, rows, real, stride, start: tl.constexpr, width: tl.constexpr, block: tl.constexpr):
    """[rows, block] of states: rows that are not real, and columns beyond the width, are 0."""
    columns = start + tl.arange(0, block)
    seen = real[:, None] & (columns < width)[None, :]
    return tl.load(base + rows[:, None] * stride + columns[None, :], mask=seen, other=0.0)


@triton.jit
def _scores(base, rows, real, stride, own, own_rest, width: tl.constexpr, first: tl.constexpr, rest: tl.constexpr):
    """Scores of a block's own rows against others, unscaled: float32 [own, rows]."""
    scores = tl.dot(own, tl.trans(_load(base, rows, real, stride, 0, width, first)))
    if rest > 0:
        scores = tl.dot(own_rest, tl.trans(_load(base, rows, real, stride, first, width, rest)), scores)
    return scores


@triton.jit(do_not_specialize=["rows", "positions"])
def _normalise(
    query, key, result, factor, rows, positions,
    query_view, query_head, query_row, key_view, key_head, key_row,
    heads, shared, width: tl.constexpr, first: tl.constexpr, rest: tl.constexpr,
    OWN: tl.constexpr, OTHER: tl.constexpr,
):  # fmt: skip
    view, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    query += view * query_view + head * query_head
    key += view * key_view + head // shared * key_head
    own = tl.program_id(0) * OWN + tl.arange(0, OWN)
    block = _load(query, own, own < rows, query_row, 0, width, first)
    block_rest = block
    if rest > 0:
        block_rest = _load(query, own, own < rows, query_row, first, width, rest)
    largest = tl.full([OWN], -float("inf"), tl.float32)
    total = tl.zeros([OWN], tl.float32)
    for start in range(0, positions, OTHER):
        others = start + tl.arange(0, OTHER)
        real = others < positions
        scores = _scores(key, others, real, key_row, block, block_rest, width, first, rest) * factor
        scores = tl.where(real[None, :], scores, -float("inf"))
        larger = tl.maximum(largest, tl.max(scores, 1))
        total = total * tl.exp2(largest - larger) + tl.sum(tl.exp2(scores - larger[:, None]), 1)
        largest = larger
    result += tl.program_id(1).to(tl.int64) * rows
    tl.store(result + own, largest + tl.log2(total), mask=own < rows)


@triton.jit(do_not_specialize=["rows", "positions", "width_of_index"])
def _sum_columns(
    query, key, normalisers, index, counts, result, factor, rows, positions, width_of_index,
    query_view, query_head, query_row, key_view, key_head, key_row,
    heads, shared, CHOSEN: tl.constexpr, width: tl.constexpr, first: tl.constexpr, rest: tl.constexpr,
    OWN: tl.constexpr, OTHER: tl.constexpr,
):  # fmt: skip
    view, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    query += view * query_view + head * query_head
    key += view * key_view + head // shared * key_head
    normalisers += tl.program_id(1).to(tl.int64) * rows
    own = tl.program_id(0) * OWN + tl.arange(0, OWN)
    block = _load(key, own, own < positions, key_row, 0, width, first)
    block_rest = block
    if rest > 0:
        block_rest = _load(key, own, own < positions, key_row, first, width, rest)
    if CHOSEN:
        rows = tl.minimum(tl.load(counts + view), width_of_index).to(tl.int32)
        index += view * width_of_index
    total = tl.zeros([OWN], tl.float32)
    for start in range(0, rows, OTHER):
        others = start + tl.arange(0, OTHER)
        real = others < rows
        if CHOSEN:
            others = tl.load(index + others, mask=real, other=0).to(tl.int32)
        normaliser = tl.load(normalisers + others, mask=real, other=float("inf"))
        scores = _scores(query, others, real, query_row, block, block_rest, width, first, rest)
        total += tl.sum(tl.exp2(scores * factor - normaliser[None, :]), 1)
    result += tl.program_id(1).to(tl.int64) * positions
    tl.store(result + own, total, mask=own < positions)
