"""Which kernels serve where; and what is said where one does not work."""

import pytest
import torch

from support.cases import llava_next, qwen2_vl
from vflowopt import Strategy
from vflowopt_hf.kernels import fusing, swapped_sums
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.vision import equal_views

CUDA = torch.device("cuda")


@pytest.fixture
def units(monkeypatch):
    """A CPU that multiplies matrices of 16 bits in units of their own, so far as anyone asks."""
    for name in fusing._MATRIX_UNITS.values():
        monkeypatch.setattr(torch.cpu, name, lambda: True)


@pytest.mark.parametrize(
    ("dtype", "width", "serves"),
    [(torch.float32, 64, False), (torch.bfloat16, 64, True), (torch.float16, 248, True), (torch.bfloat16, 249, False)],
)
@pytest.mark.usefixtures("units")
def test_a_cpu_with_matrix_units_uses_them_for_16_bits(dtype, width, serves):
    module = fusing.fused_kernels(torch.zeros(1, 1, 16, width, dtype=dtype))
    assert module is (swapped_sums if serves else None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_cpu_without_them_has_no_kernels(dtype, monkeypatch):
    monkeypatch.setattr(fusing, "has_matrix_units", lambda _dtype: False)
    assert fusing.fused_kernels(torch.zeros(1, 1, 16, 64, dtype=dtype)) is None


def test_where_kernels_fail_it_is_said():
    """As without a C compiler, which Triton needs to launch anything."""

    def fail():
        raise RuntimeError("Failed to find C compiler.\nMore of it")

    with pytest.warns(RuntimeWarning) as caught:
        assert fusing._working("Triton", fail) is None
    (warning,) = caught
    assert str(warning.message).startswith(
        "Triton does not work here (RuntimeError: Failed to find C compiler.); tokens"
    )


def failing(*failed):
    """In place of what tries kernels: those of some fail, the others are what they are of."""
    return lambda what, _attempt: None if what in failed else what


@pytest.mark.parametrize(
    ("there", "failed", "sums", "order"),
    [
        (True, (), "Triton", "Triton"),
        (True, ("Triton",), "torch's fused attention", None),
        (True, ("Triton", "torch's fused attention"), None, None),
        (False, (), "torch's fused attention", None),
    ],
)
def test_cuda_has_kernels_of_triton_or_those_of_torch(there, failed, sums, order, monkeypatch):
    monkeypatch.setattr(fusing, "_has_triton", lambda: there)
    monkeypatch.setattr(fusing, "_working", failing(*failed))
    assert fusing._sums.__wrapped__(CUDA, torch.float16, 64) == sums
    assert fusing._order.__wrapped__(CUDA) == order


@pytest.mark.skipif(torch.cuda.is_available(), reason="there they work")
def test_kernels_that_do_not_work_are_tried_and_passed_over():
    with pytest.warns(RuntimeWarning, match="does not work here"):
        assert fusing._sums.__wrapped__(CUDA, torch.float16, 64) is None


def test_tokens_are_chosen_by_one_program_as_long_as_its_registers_hold_them(monkeypatch):
    monkeypatch.setattr(fusing, "_order", lambda _device: "one program")
    assert fusing.fused_order(CUDA, 16_384) == "one program"
    assert fusing.fused_order(CUDA, 16_385) is None
    assert fusing.fused_order(torch.device("cpu"), 16) is None


@pytest.mark.parametrize("case", [llava_next.CASE, qwen2_vl.CASE], ids=["class-token", "packed"])
@pytest.mark.usefixtures("units")
def test_importance_of_a_model_is_that_of_stock_operators(case, monkeypatch):
    subject = Subject(case, "sdpa")
    batch = subject.batch(subject.several(), subject.image(-1))
    subject.model.to(torch.bfloat16)
    inputs = {name: value.bfloat16() if value.is_floating_point() else value for name, value in batch.inputs.items()}
    strategy = Strategy.vflowopt(num_layers=subject.num_layers, retention=(0.5, 0.5, 0.5), threshold=1.2)

    def importance():
        with subject.prune(strategy) as pruning, torch.no_grad():
            subject.model(**inputs)
        return [torch.as_tensor(unit.importance) for unit in pruning.plan]

    served = importance()
    monkeypatch.setattr(equal_views, "fused_kernels", lambda _states: None)
    for own, stock in zip(served, importance(), strict=True):
        assert not torch.equal(own, stock)
        torch.testing.assert_close(own, stock, rtol=1e-4, atol=1e-4)
