"""Column sums of softmax attention from query and key, block by block, in operators that every device has."""

import math

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

# Scores held at once. A core of a CPU is fastest on what fits into its cache, other devices on few large kernels.
_PER_CPU_CORE, _PER_DEVICE = 1 << 18, 1 << 24

# Rows of a block at least: with fewer, a product of matrices takes longer to load the keys than to multiply.
_ROWS = 256


def column_sums(query: Tensor, key: Tensor, scaling: float, weight: Tensor | None = None) -> Tensor:
    """Weighted sum over query rows and mean over heads of ``softmax(scaling * query @ key^T)``, of each view.

    Costs hardly more than the scores alone, and memory linear in the number of positions. Calls on the same input give
    the same bits.

    Args:
        query: float [views, heads, rows, head_dim]; computed in float32.
        key: float [views, key heads, positions, head_dim].
        scaling: factor of the scores.
        weight: float32 [views, rows]; ``None`` is 1 for each.

    Returns:
        float32 [views, positions].
    """
    (views, heads), (key_heads, positions, width) = query.shape[:2], key.shape[1:]
    query = query.reshape(views, key_heads, -1, width)  # heads that share keys are one head with more rows
    rows = query.shape[2]
    is_cpu = key.device.type == "cpu"
    block = min(_PER_DEVICE, _PER_CPU_CORE * torch.get_num_threads()) if is_cpu else _PER_DEVICE
    parts = math.ceil(rows / max(_ROWS, block // positions))
    largest = math.ceil(rows / parts) * positions
    fitting = max(1, block // largest)  # products at once: heads of one view, or whole views
    at_once, together = min(views, max(1, fitting // key_heads)), min(key_heads, fitting)
    if weight is not None:
        weight = weight.repeat(1, heads // key_heads)[:, None, :, None]
    # Two blocks for all: on a CPU, memory that is new each time takes longer to get than scores to compute.
    room = torch.empty(2, at_once * together * largest, device=key.device)
    total = torch.zeros(views, positions, device=key.device)
    # Whoever looks on at operators is to see what any device would do.
    may_look = is_cpu and _get_current_dispatch_mode() is None
    for view in range(0, views, at_once):
        some = slice(view, view + at_once)
        weights = [None] * parts if weight is None else weight[some].tensor_split(parts, dim=2)
        for head in range(0, key_heads, together):
            own = (some, slice(head, head + together))
            columns = key[own].float().flatten(0, 1).transpose(1, 2)
            for part, factor in zip(query[own].tensor_split(parts, dim=2), weights, strict=True):
                if may_look and factor is not None and not factor.any():
                    continue  # adds nothing: which rows count is known here, where nothing has to be waited for
                shape = (*part.shape[:3], positions)
                scores, attention = (memory[: math.prod(shape)].view(shape) for memory in room)
                torch.bmm((part.float() * scaling).flatten(0, 1), columns, out=scores.flatten(0, 1))
                torch.softmax(scores, dim=-1, out=attention)
                if factor is not None:
                    attention *= factor
                total[some] += attention.sum(dim=(1, 2))
    return total / heads
