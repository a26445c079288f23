"""The fused kernels against float64 and against stock operators, on CUDA, or on a CPU in Triton's interpreter.

The interpreter needs its environment variable before Triton is imported, and so a process of its own, which runs this
very file. It takes bfloat16 for integers.
"""

import os
import subprocess
import sys
import types

import pytest
import torch

from vflowopt.components.scorer import calibrated_attention
from vflowopt_hf.vision import equal_views, fusing
from vflowopt_hf.vision.capture import TorchAttention
from vflowopt_hf.vision.vision_call import VisionCall

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]
on_device = (lambda test: test) if INTERPRETED else pytest.mark.gpu


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
def test_kernels_in_the_interpreter():
    pytest.importorskip("triton", reason="there is no Triton for this platform")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not gpu", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(INTERPRETED, reason="needs the compiler")
@pytest.mark.parametrize(("kernel", "blocks"), [("_normalise", "_NORMALISE"), ("_sum_columns", "_SUM")])
def test_kernels_compile_to_the_tensor_cores_of_a_gpu(kernel, blocks, tmp_path, monkeypatch):
    """For an H100, which need not be there."""
    triton = pytest.importorskip("triton", reason="there is no Triton for this platform")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vflowopt_hf.vision import fused_sums

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function, (first, rest) = getattr(fused_sums, kernel), fused_sums._halves(72)
    fixed = {"CHOSEN": True, "width": 72, "first": first, "rest": rest} | getattr(fused_sums, blocks)
    kinds = {"query": "*bf16", "key": "*bf16", "normalisers": "*fp32", "result": "*fp32", "factor": "fp32"}
    kinds |= {"index": "*i64", "counts": "*i64"} | dict.fromkeys(fixed, "constexpr")
    names = function.arg_names
    source = ASTSource(
        fn=function,
        signature={name: kinds.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in fixed.items() if name in names},
    )
    assert "wgmma" in triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]


@pytest.fixture(autouse=True)
def fused(monkeypatch):
    """Kernels for all devices where they are interpreted."""
    if not INTERPRETED:
        return
    from vflowopt_hf.vision import fused_sums

    monkeypatch.setattr(equal_views, "fused_kernels", lambda _states: fused_sums)


def states(views, heads, positions, width, dtype, seed=0):
    """As attention functions get them: heads are a transposed axis."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(views, positions, heads, width, generator=generator).to(DEVICE, dtype).transpose(1, 2)


def matrix(query, key, scaling, class_tokens=0):
    """Mean weights over heads, float64 [views, patches, patches]."""
    key = key.double().repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    weights = (query.double() @ key.mT * scaling).softmax(-1).mean(1)
    return weights[:, class_tokens:, class_tokens:]


def require_close(found, expected, bound=3e-6):
    """Products of 16 bits are exact in float32, but for the order in which it adds."""
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=bound, atol=bound)


SHAPES = [  # views, heads, key heads, positions, width, class tokens
    (1, 2, 1, 133, 72, 1),
    (1, 1, 1, 70, 128, 0),
    (2, 1, 1, 20, 80, 0),
    (1, 1, 1, 20, 8, 5),
]


@on_device
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_those_of_float64(shape, dtype):
    views, heads, key_heads, positions, width, first = shape
    query, key = states(views, heads, positions, width, dtype), states(views, key_heads, positions, width, dtype, 1)
    query, scaling = 2 * query, width**-0.5
    source, weights = TorchAttention(query, key, scaling, first), matrix(query, key, scaling, first)
    require_close(source.received(), weights.sum(1))
    chosen = torch.rand(weights.shape[:2], generator=torch.Generator().manual_seed(1)).to(DEVICE) < 0.3
    some = torch.einsum("vij,vi->vj", weights, chosen.double())
    require_close(source.received(chosen), some)
    require_close(source.received(chosen, int(chosen.sum(1).max()) + 1), some)
    again = TorchAttention(query, key, scaling, first)
    assert torch.equal(again.received(), source.received())


@on_device
def test_packed_views_of_several_lengths_are_read_where_they_lie():
    lengths = [40, 33, 33, 5]
    packed = [states(1, 1, sum(lengths), 72, torch.float16, seed) for seed in range(2)]
    source = TorchAttention.of_calls([VisionCall(*packed, 0.2, torch.tensor([0, 40, 73, 106, 111]))], packed=lengths)
    start = 0
    for place, views in ((0, 1), (1, 2), (3, 1)):
        length = lengths[place]
        own = [side[:, :, start : start + views * length].unflatten(2, (views, length)) for side in packed]
        start += views * length
        weights = matrix(*(side[0].transpose(0, 1) for side in own), 0.2)
        require_close(source.views(slice(place, place + views)).received(), weights.sum(1))


@on_device
def test_large_scores_do_not_overflow():
    query, key = states(1, 1, 90, 64, torch.float16), states(1, 1, 90, 64, torch.float16, 1)
    weights = matrix(query, key, 20.0)
    torch.testing.assert_close(
        TorchAttention(query, key, 20.0).received().double(), weights.sum(1), rtol=1e-3, atol=1e-3
    )


@on_device
def test_calibrated_attention_is_that_of_stock_operators(monkeypatch):
    query, key = states(2, 1, 90, 72, torch.float16), states(2, 1, 90, 72, torch.float16, 1)
    found, selected = calibrated_attention(TorchAttention(query, key, 0.5), 1.5)
    monkeypatch.setattr(equal_views, "fused_kernels", lambda _states: None)
    expected, same = calibrated_attention(TorchAttention(query, key, 0.5), 1.5)
    assert torch.equal(selected, same)
    require_close(found, expected.double())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("views", "positions", "width"), [(6, 729, 72), (1, 17_800, 80)])
def test_at_the_sizes_of_published_towers_no_other_tokens_are_chosen(views, positions, width, dtype):
    """Float64 in blocks of rows; whichever 10 % of the patches receive most do so by its sums, too."""
    query, key = (2 * states(views, 16, positions, width, dtype, seed) for seed in range(2))
    source, scaling = TorchAttention(query, key, width**-0.5), width**-0.5
    columns = key.double().mT * scaling
    blocks = [(rows.double() @ columns).softmax(-1).mean(1) for rows in query.split(256, dim=2)]
    expected = torch.stack([block.sum(1) for block in blocks]).sum(0)
    require_close(source.received(), expected, 1e-5)
    few = positions // 10
    best = (sums.topk(few).indices.sort().values for sums in (source.received(), expected))
    assert torch.equal(*best)
    chosen = expected > 1.2 * expected.mean(-1, keepdim=True)
    weights = chosen.double().split(256, dim=1)
    some = sum(torch.einsum("vij,vi->vj", block, own) for block, own in zip(blocks, weights, strict=True))
    require_close(source.received(chosen, int(chosen.sum(1).max())), some, 1e-5)


@pytest.mark.skipif(INTERPRETED, reason="needs no kernel")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cpu_has_no_kernels(dtype):
    assert fusing.fused_kernels(torch.zeros(1, 1, 16, 64, dtype=dtype)) is None


@pytest.mark.skipif(INTERPRETED, reason="needs no kernel")
def test_where_triton_fails_it_is_said_and_torch_does_it(monkeypatch):
    """As without a C compiler, which Triton needs to launch anything."""

    def fail(*_):
        raise RuntimeError("Failed to find C compiler.\nMore of it")

    module = types.SimpleNamespace(row_normalisers=fail)
    monkeypatch.setitem(sys.modules, "vflowopt_hf.vision.fused_sums", module)
    monkeypatch.setattr("vflowopt_hf.vision.fused_sums", module, raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    with pytest.warns(RuntimeWarning, match=r"RuntimeError: Failed to find C compiler\.\); .* torch's own operators"):
        assert fusing._kernels.__wrapped__(torch.device("cpu"), torch.float16, 64) is None
