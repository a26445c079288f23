"""Column sums of attention against float64, whatever the blocks; and memory linear in the number of patches."""

from functools import partial

import pytest
import torch
from torch.overrides import TorchFunctionMode

from support.memory import peak_memory
from vflowopt.components.scorer import calibrated_attention
from vflowopt_hf.vision import column_sums as module
from vflowopt_hf.vision.capture import TorchAttention
from vflowopt_hf.vision.column_sums import column_sums


def query_and_key(views=2, heads=6, key_heads=6, rows=50, positions=40, dtype=torch.float32):
    """As attention functions get them: heads are a transposed axis."""
    generator = torch.Generator().manual_seed(5)
    query = 3 * torch.randn(views, rows, heads, 8, generator=generator)
    key = 3 * torch.randn(views, positions, key_heads, 8, generator=generator)
    return tuple(states.to(dtype).transpose(1, 2) for states in (query, key))


def definition(query, key, scaling, weight=None):
    """All weights at once, in float64."""
    key = key.double().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    attention = (query.double() @ key.mT * scaling).softmax(-1).mean(1)
    return attention.sum(1) if weight is None else torch.einsum("vi,vij->vj", weight.double(), attention)


@pytest.mark.parametrize(("per_core", "rows"), [(1, 1), (1, 7), (40 * 20, 3), (40 * 50 * 4, 1), (1 << 18, 256)])
@pytest.mark.parametrize("key_heads", [6, 3, 1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_of_rows_and_heads_do_not_show(per_core, rows, key_heads, weighted, dtype, monkeypatch):
    query, key = query_and_key(key_heads=key_heads, dtype=dtype)
    weight = torch.rand(2, 50, generator=torch.Generator().manual_seed(2)) if weighted else None
    monkeypatch.setattr(module, "_PER_CPU_CORE", per_core)
    monkeypatch.setattr(module, "_ROWS", rows)
    found = column_sums(query, key, 0.3, weight)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), definition(query, key, 0.3, weight), rtol=1e-6, atol=1e-6)
    assert torch.equal(column_sums(query, key, 0.3, weight), found)


class Products(TorchFunctionMode):
    """Counts products of matrices, where nobody who looks on at operators would be told of them."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.bmm
        return function(*args, **(kwargs or {}))


def test_blocks_of_rows_that_do_not_count_are_left_out(monkeypatch):
    query, key = query_and_key()
    monkeypatch.setattr(module, "_PER_CPU_CORE", 1)
    monkeypatch.setattr(module, "_ROWS", 10)
    counts = {}
    for rows in (0, 10, 11, 50):
        weight = (torch.arange(50) < rows).float().expand(2, -1)
        with Products() as products:
            found = column_sums(query, key, 0.3, weight)
        counts[rows] = products.count
        torch.testing.assert_close(found.double(), definition(query, key, 0.3, weight), rtol=1e-6, atol=1e-6)
    views_and_heads = 2 * 6
    assert counts == {rows: blocks * views_and_heads for rows, blocks in ((0, 0), (10, 1), (11, 2), (50, 5))}


def test_large_scores_do_not_overflow():
    query, key = query_and_key()
    found = column_sums(query, key, 100.0)
    torch.testing.assert_close(found.double(), definition(query, key, 100.0), rtol=1e-3, atol=1e-3)


def test_scores_stay_float32_where_the_forward_runs_under_autocast():
    query, key = query_and_key()
    with torch.autocast("cpu", torch.bfloat16):
        found = column_sums(query, key, 0.3)
    torch.testing.assert_close(found.double(), definition(query, key, 0.3), rtol=1e-6, atol=1e-6)


def test_the_meter_counts_what_is_held_at_once():
    def computation():
        for _ in range(3):
            torch.empty(10, 100, device="meta")
        torch.empty(10, 100, device="meta").exp_().view(100, 10).softmax(-1)

    assert peak_memory(computation) == 2 * 4 * 10 * 100


@pytest.mark.parametrize("per_block", [1 << 18, 1 << 20])
def test_memory_of_the_importance_pass_is_linear_in_patches(per_block, monkeypatch):
    """Both passes, on tensors without data: what holds there needs no value that only the device knows."""
    monkeypatch.setattr(module, "_PER_DEVICE", per_block)
    heads, patches, passes = 4, (4096, 8192, 16384), {}
    for count in patches:
        states = torch.empty(1, heads, count, 80, device="meta")
        source = TorchAttention(states, states, 80**-0.5)
        passes[count] = peak_memory(partial(calibrated_attention, source, 1.5))
    small, middle, large = (passes[count] for count in patches)
    assert large - middle == pytest.approx(2 * (middle - small), rel=0.05)
    assert large <= 4.1 * small
    assert large < 4 * patches[-1] ** 2 / 8
