"""Column sums of softmax attention by torch's own fused attention, which returns the normaliser of each row.

With n_i the logarithm of the normaliser of row i, column j of the attention matrix sums up to

    sum_i exp(s q_i k_j - n_i) = exp(log(sum_i exp(s k_j q_i - n_i))),

the normaliser of row j of attention with the roles of query and key swapped, if -n_i is added to its scores. One
coordinate more does that: -n_i / s of a query, 1 of a key. No score is written to memory, and both passes run on what
the tower's own attention runs on, at the price of its product with values, which nobody asked for. It is for CUDA
without Triton; tests run it on a CPU, where stock operators are faster.
"""

from typing import Any

import torch
from torch import Tensor

_PARTS = 3
"""Numbers of 16 bits that hold one of float32 together."""

_UNSEEN = -1e30
"""What is added to scores that do not count: the lowest that stays finite whatever it is added to."""

_MULTIPLE = 8
"""Of which a head's width is one, for the kernels of CUDA."""


def row_normalisers(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """See :meth:`vflowopt_hf.kernels.fusing.ColumnSums.row_normalisers`: natural logarithms.

    Heads are up to 248 wide, for the kernels of CUDA.
    """
    return _normalisers(_with(_of_key_heads(query, key)), _with(key), scaling).reshape(query.shape[:3])


def column_sums(
    query: Tensor, key: Tensor, scaling: float, normalisers: Tensor, chosen: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """See :meth:`vflowopt_hf.kernels.fusing.ColumnSums.column_sums`."""
    added, lowest = normalisers / -scaling, torch.finfo(query.dtype).min
    if chosen is not None:
        rows, counts = chosen[0][:, None], chosen[1][:, None, None]
        query, added = query.take_along_dim(rows[..., None], dim=2), added.take_along_dim(rows, dim=2)
        beyond = torch.arange(rows.shape[-1], device=rows.device) >= counts
        added = added.masked_fill(beyond, max(_PARTS * lowest, _UNSEEN))
    heads = _of_key_heads(query, key)
    rest, parts = added.reshape(heads.shape[:3]), []
    for _ in range(_PARTS):
        parts.append(rest.clamp(min=lowest).to(query.dtype))
        rest = rest - parts[-1].float()
    sums = _normalisers(_with(key, key.new_ones(_PARTS)), _with(heads, torch.stack(parts, dim=-1)), scaling).exp()
    return sums.sum(dim=1) / query.shape[1]


def _of_key_heads(query: Tensor, key: Tensor) -> Tensor:
    """Heads that share keys as one head with more rows."""
    return query.reshape(len(query), key.shape[1], -1, query.shape[-1])


def _with(states: Tensor, coordinates: Tensor | None = None) -> Tensor:
    """States with coordinates added to all or to each, and filled up."""
    missing = -(states.shape[-1] + (0 if coordinates is None else _PARTS)) % _MULTIPLE
    if coordinates is None and not missing:
        return states
    added = [] if coordinates is None else [coordinates.expand(*states.shape[:3], _PARTS)]
    return torch.cat([states, *added, states.new_zeros(*states.shape[:3], missing)], dim=-1)


def _normalisers(query: Tensor, key: Tensor, scaling: float) -> Tensor:
    """Of attention: float32 [views, heads, rows]. ``scaled_dot_product_attention`` calls these, and drops them."""
    kernels: Any = torch.ops.aten
    if query.is_cuda:
        found = kernels._scaled_dot_product_flash_attention(query, key, key, scale=scaling)
    else:
        found = kernels._scaled_dot_product_flash_attention_for_cpu(query, key, key, scale=scaling)
    normalisers: Tensor = found[1]
    return normalisers
