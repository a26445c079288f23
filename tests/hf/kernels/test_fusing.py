"""Which kernels serve where; and what is said where one does not work."""

from types import SimpleNamespace

import pytest
import torch

from support.cases import llava_next, qwen2_vl
from vflowopt import Strategy
from vflowopt_hf.kernels import fusing, swapped_sums
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.vision import equal_views

CUDA = torch.device("cuda")


def states(*shape, dtype=torch.bfloat16, is_cuda=True):
    """What is looked at of query and key."""
    return SimpleNamespace(is_cuda=is_cuda, dtype=dtype, shape=shape, device=CUDA)


@pytest.mark.parametrize(
    ("asked", "serves"),
    [
        (states(6, 16, 729, 72), True),
        (states(6, 16, 729, 248, dtype=torch.float16), True),
        (states(6, 16, 729, 249), False),
        (states(6, 16, 729, 72, dtype=torch.float32), False),
        (states(6, 16, 729, 72, is_cuda=False), False),
        (states(4_095, 16, 64, 72), True),
        (states(4_096, 16, 64, 72), False),  # more blocks than a grid has
    ],
)
def test_kernels_serve_16_bits_on_cuda(asked, serves, monkeypatch):
    monkeypatch.setattr(fusing, "_sums", lambda *_: "kernels")
    assert fusing.fused_kernels(asked) == ("kernels" if serves else None)


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


def test_memory_that_ran_out_says_nothing_of_kernels():
    def fail():
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        fusing._working("Triton", fail)


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
def test_importance_of_a_model_by_torchs_fused_attention_is_that_of_stock_operators(case, monkeypatch):
    subject = Subject(case, "sdpa")
    batch = subject.batch(subject.several(), subject.image(-1))
    subject.model.to(torch.bfloat16)
    inputs = {name: value.bfloat16() if value.is_floating_point() else value for name, value in batch.inputs.items()}
    strategy = Strategy.vflowopt(num_layers=subject.num_layers, retention=(0.5, 0.5, 0.5), threshold=1.2)

    def importance():
        with subject.prune(strategy) as pruning, torch.no_grad():
            subject.model(**inputs)
        return [torch.as_tensor(unit.importance) for unit in pruning.plan]

    expected = importance()
    monkeypatch.setattr(equal_views, "fused_kernels", lambda _states: swapped_sums)
    for own, stock in zip(importance(), expected, strict=True):
        assert not torch.equal(own, stock)
        torch.testing.assert_close(own, stock, rtol=1e-4, atol=1e-4)
