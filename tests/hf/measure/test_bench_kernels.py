"""What the device did, from its profile: sums over events whose times are known, and a real run on CUDA."""

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent

from support import tiny
from vflowopt import Strategy
from vflowopt.benchmark import MODES
from vflowopt_hf.adapters import llava_onevision
from vflowopt_hf.measure.bench.kernels import can_profile, summed


def event(name, start, end, device=DeviceType.CUDA, **options):
    """Times in microseconds."""
    return FunctionEvent(id=0, name=name, thread=0, start_us=start, end_us=end, device_type=device, **options)


def test_kernels_are_summed_and_what_overlaps_is_busy_once():
    seen = summed(
        [
            event("cudaLaunchKernel", 0, 1, DeviceType.CPU),
            event("cuLaunchKernelEx", 2, 3, DeviceType.CPU),
            event("cudaGraphLaunch", 4, 5, DeviceType.CPU),
            event("cudaMemcpyAsync", 6, 7, DeviceType.CPU),
            event("cudaDeviceSynchronize", 8, 300, DeviceType.CPU),
            event("gemm", 100, 140),
            event("softmax", 10, 30),
            event("gemm", 20, 50),  # on another stream
            event("Memcpy HtoD (Pinned -> Device)", 45, 60),
            event("Memset (Device)", 200, 201),
            event("a range that the user named", 0, 300, is_user_annotation=True),
        ]
    )
    assert (seen.launches, seen.count) == (3, 3)
    assert seen.seconds == pytest.approx(90e-6)
    assert seen.busy == pytest.approx((50 + 40 + 1) * 1e-6)
    assert seen.idle(182e-6) == pytest.approx(0.5)


def test_what_the_profiler_did_not_see_is_not_a_zero():
    assert summed([]) is None
    assert summed([event("cudaLaunchKernel", 0, 1, DeviceType.CPU)]) is None
    assert summed([event("gemm", 0, 10)]).launches is None
    assert not can_profile(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_benchmark_on_cuda_in_every_mode():
    model = tiny.tiny_onevision().to("cuda", torch.bfloat16)
    inputs = {name: value.to("cuda") for name, value in tiny.image_inputs(model, [[(60, 84)]]).items()}
    strategy = Strategy.vflowopt(num_layers=tiny.LAYERS, retention=(0.6, 0.7, 0.5), threshold=1.0, cell=2.0)
    bench = llava_onevision.benchmark(
        model, inputs, {"mine": strategy}, rounds=1, details=True, generate=(1, 4), modes=MODES
    )
    for row in bench.rows:
        assert row.flops_by_torch == row.flops_all_pairs  # keys that heads share are counted right
        assert all(done.flops > 0 for part, done in row.work.items() if part == "attention capture")
        assert set(row.kernels) == set(row.times)
        for part, seen in row.kernels.items():
            assert seen.seconds > 0
            assert seen.launches > 0, part
        assert [one.mode for one in row.generation] == list(MODES)
        assert all(one.kernels is not None and set(one.times) == {1, 4} for one in row.generation)
