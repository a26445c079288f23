"""Column sums by kernels against float64 and against stock operators: Triton's, and those of torch's own attention."""

import importlib
from dataclasses import dataclass

import pytest
import torch

from support.interpreter import INTERPRETED, compiled, needs_compiler
from vflowopt.components.scorer import calibrated_attention
from vflowopt_hf.vision import equal_views
from vflowopt_hf.vision.capture import TorchAttention
from vflowopt_hf.vision.vision_call import VisionCall


@dataclass(frozen=True)
class Kernels:
    """A module of them, where it runs, and how near to float64 its sums are.

    Products of 16 bits are exact in float32, but for the order in which it adds; torch's exponential is not.
    """

    name: str
    device: str
    bound: float


TRITON = Kernels("fused_sums", "cpu" if INTERPRETED else "cuda", 3e-6)
KERNELS = [pytest.param(TRITON, id="triton", marks=() if INTERPRETED else pytest.mark.gpu)]
if not INTERPRETED:
    KERNELS += [
        pytest.param(Kernels("swapped_sums", "cpu", 1e-4), id="torch-cpu"),
        pytest.param(Kernels("swapped_sums", "cuda", 1e-4), id="torch-cuda", marks=pytest.mark.gpu),
    ]
DTYPES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]


@needs_compiler
@pytest.mark.parametrize(("kernel", "blocks"), [("_normalise", "_NORMALISE"), ("_sum_columns", "_SUM")])
def test_kernels_compile_to_the_tensor_cores_of_a_gpu(kernel, blocks, tmp_path, monkeypatch):
    from vflowopt_hf.kernels import fused_sums

    first, rest = fused_sums._halves(72)
    fixed = {"CHOSEN": True, "width": 72, "first": first, "rest": rest} | getattr(fused_sums, blocks)
    kinds = {"query": "*bf16", "key": "*bf16", "normalisers": "*fp32", "result": "*fp32", "factor": "fp32"}
    kinds |= {"index": "*i64", "counts": "*i64"}
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert "wgmma" in compiled(getattr(fused_sums, kernel), kinds, fixed, **fused_sums._LAUNCH)


@pytest.fixture(params=KERNELS)
def kernels(request, monkeypatch):
    """In use, whatever the machine."""
    module = importlib.import_module(f"vflowopt_hf.kernels.{request.param.name}")
    monkeypatch.setattr(equal_views, "fused_kernels", lambda _states: module)
    return request.param


def states(kernels, views, heads, positions, width, dtype=torch.float16, seed=0):
    """As attention functions get them: heads are a transposed axis."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(views, positions, heads, width, generator=generator).to(kernels.device, dtype).transpose(1, 2)


def matrix(query, key, scaling, class_tokens=0):
    """Mean weights over heads, float64 [views, patches, patches]."""
    key = key.double().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    weights = (query.double() @ key.mT * scaling).softmax(-1).mean(1)
    return weights[:, class_tokens:, class_tokens:]


def require_close(found, expected, bound):
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=bound, atol=bound)


SHAPES = [  # views, heads, key heads, positions, width, class tokens
    (1, 2, 1, 133, 72, 1),
    (1, 1, 1, 70, 128, 0),
    (2, 1, 1, 20, 80, 0),
    (1, 1, 1, 20, 8, 5),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_those_of_float64(kernels, shape, dtype):
    views, heads, key_heads, positions, width, first = shape
    query = 2 * states(kernels, views, heads, positions, width, dtype)
    key, scaling = states(kernels, views, key_heads, positions, width, dtype, 1), width**-0.5
    source, weights = TorchAttention(query, key, scaling, first), matrix(query, key, scaling, first)
    require_close(source.received(), weights.sum(1), kernels.bound)
    chosen = torch.rand(weights.shape[:2], generator=torch.Generator().manual_seed(1)).to(kernels.device) < 0.3
    some = torch.einsum("vij,vi->vj", weights, chosen.double())
    require_close(source.received(chosen), some, kernels.bound)
    require_close(source.received(chosen, int(chosen.sum(1).max()) + 1), some, kernels.bound)
    require_close(source.received(torch.zeros_like(chosen)), torch.zeros_like(some), 0)
    again = TorchAttention(query, key, scaling, first)
    assert torch.equal(again.received(), source.received())


def test_packed_views_of_several_lengths_are_read_where_they_lie(kernels):
    lengths = [40, 33, 33, 5]
    packed = [states(kernels, 1, 1, sum(lengths), 72, seed=seed) for seed in range(2)]
    source = TorchAttention.of_calls([VisionCall(*packed, 0.2, torch.tensor([0, 40, 73, 106, 111]))], packed=lengths)
    start = 0
    for place, views in ((0, 1), (1, 2), (3, 1)):
        length = lengths[place]
        own = [side[:, :, start : start + views * length].unflatten(2, (views, length)) for side in packed]
        start += views * length
        weights = matrix(*(side[0].transpose(0, 1) for side in own), 0.2)
        require_close(source.views(slice(place, place + views)).received(), weights.sum(1), kernels.bound)


@pytest.mark.parametrize("dtype", DTYPES)
def test_normalisers_are_not_rounded_to_the_dtype(kernels, dtype):
    """All scores are 200, so every column sums up to 1, and a normaliser off by 1e-3 shows."""
    query = torch.full((1, 1, 90, 64), 2.5, device=kernels.device, dtype=dtype)
    sums = TorchAttention(query, query, 0.5).received()
    require_close(sums, torch.ones_like(sums).double(), 1e-4)


def test_large_scores_do_not_overflow(kernels):
    query, key = (states(kernels, 1, 1, 90, 64, seed=seed) for seed in range(2))
    weights = matrix(query, key, 20.0)
    torch.testing.assert_close(
        TorchAttention(query, key, 20.0).received().double(), weights.sum(1), rtol=1e-3, atol=1e-3
    )


def test_calibrated_attention_is_that_of_stock_operators(kernels, monkeypatch):
    query, key = (states(kernels, 2, 1, 90, 72, seed=seed) for seed in range(2))
    found, selected = calibrated_attention(TorchAttention(query, key, 0.5), 1.5)
    monkeypatch.setattr(equal_views, "fused_kernels", lambda _states: None)
    expected, same = calibrated_attention(TorchAttention(query, key, 0.5), 1.5)
    assert torch.equal(selected, same)
    require_close(found, expected.double(), kernels.bound)


@pytest.mark.skipif(INTERPRETED, reason="would take minutes")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("views", "positions", "width"),
    [(1, 729, 80), pytest.param(6, 729, 72, marks=pytest.mark.gpu), pytest.param(1, 17_800, 80, marks=pytest.mark.gpu)],
)
def test_at_the_sizes_of_published_towers_no_other_tokens_are_chosen(kernels, views, positions, width, dtype):
    """Float64 in blocks of rows; whichever 10 % of the patches receive most do so by its sums, too."""
    query, key = (2 * states(kernels, views, 16, positions, width, dtype, seed) for seed in range(2))
    source, scaling, bound = TorchAttention(query, key, width**-0.5), width**-0.5, max(1e-5, kernels.bound)
    columns = key.double().mT * scaling
    blocks = [(rows.double() @ columns).softmax(-1).mean(1) for rows in query.split(256, dim=2)]
    expected = torch.stack([block.sum(1) for block in blocks]).sum(0)
    require_close(source.received(), expected, bound)
    few = positions // 10
    best = (sums.topk(few).indices.sort().values for sums in (source.received(), expected))
    assert torch.equal(*best)
    chosen = expected > 1.2 * expected.mean(-1, keepdim=True)
    weights = chosen.double().split(256, dim=1)
    some = sum(torch.einsum("vij,vi->vj", block, own) for block, own in zip(blocks, weights, strict=True))
    require_close(source.received(chosen, int(chosen.sum(1).max())), some, bound)
