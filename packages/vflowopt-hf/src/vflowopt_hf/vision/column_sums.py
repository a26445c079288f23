"""Column sums of softmax attention from query and key, block by block: the importance pass."""

import math

import torch
from torch import Tensor

# Scores held at once. A core of a CPU is fastest on what fits into its cache, other devices on few large kernels.
_PER_CPU_CORE, _PER_DEVICE = 1 << 18, 1 << 24

# Rows of a block at least: with fewer, a product of matrices takes longer to load the keys than to multiply.
_ROWS = 256


def column_sums(query: Tensor, key: Tensor, scaling: float, weight: Tensor | None = None) -> Tensor:
    """Weighted sum over query rows and mean over heads of ``softmax(scaling * query @ key^T)``.

    Costs hardly more than the scores alone, and memory linear in the number of positions. Calls on the same input give
    the same bits.

    Args:
        query: float [heads, rows, head_dim]; computed in float32.
        key: float [key heads, positions, head_dim].
        scaling: factor of the scores.
        weight: float32 [rows]; ``None`` is 1 for each.

    Returns:
        float32 [positions].
    """
    heads, (key_heads, positions, width) = len(query), key.shape
    query = query.reshape(key_heads, -1, width)  # heads that share keys are one head with more rows
    rows = query.shape[1]
    is_cpu = key.device.type == "cpu"
    block = min(_PER_DEVICE, _PER_CPU_CORE * torch.get_num_threads()) if is_cpu else _PER_DEVICE
    parts = math.ceil(rows / max(_ROWS, block // positions))
    largest = math.ceil(rows / parts) * positions
    together = min(key_heads, max(1, block // largest))
    weights = [None] * parts if weight is None else weight.repeat(heads // key_heads).tensor_split(parts)
    # Two blocks for all: on a CPU, memory that is new each time takes longer to get than scores to compute.
    room = torch.empty(2, together * largest, device=key.device)
    total = torch.zeros(positions, device=key.device)
    for some, keys in zip(query.split(together), key.split(together), strict=True):
        columns = keys.float().transpose(1, 2)
        for part, factor in zip(some.tensor_split(parts, dim=1), weights, strict=True):
            shape = (*part.shape[:2], positions)
            scores, attention = (memory[: math.prod(shape)].view(shape) for memory in room)
            torch.bmm(part.float() * scaling, columns, out=scores)
            torch.softmax(scores, dim=-1, out=attention)
            if factor is not None:
                attention *= factor[:, None]
            total += attention.sum(dim=(0, 1))
    return total / heads
