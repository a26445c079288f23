"""NumPy and torch give the same plans, and planning never waits for the device."""

import numpy as np
import pytest
from hypothesis import assume, given

from support.backends import Attention, host
from vflowopt import CalibratedAttention, GridRecycler
from vflowopt.components.entropy import gray_levels, patch_entropy
from vflowopt.components.scorer import calibrated_attention, entropy_term
from vflowopt.plans import planning as plan_module
from vflowopt.plans.planning import make_plan
from vflowopt.testing import attention_matrices, pruning_cases

torch = pytest.importorskip("torch")

READS = ("cpu", "numpy", "item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__array__", "__len__")
"""Ways in which Python code can read a tensor's values, or iterate over it, which a device would have to wait for."""


@pytest.fixture
def no_reads(monkeypatch):
    """Fail on anything that copies a tensor's values to the host, except inside ``check_importance``."""
    allowed = []

    def guard(name):
        original = getattr(torch.Tensor, name)

        def guarded(tensor, *args, **kwargs):
            assert allowed or name == "__len__", f"a tensor's values were read through {name}"
            return original(tensor, *args, **kwargs)

        return guarded

    for name in READS:
        monkeypatch.setattr(torch.Tensor, name, guard(name))
    check = plan_module.check_importance

    def check_importance(*args):
        allowed.append(True)
        try:
            return check(*args)
        finally:
            allowed.pop()

    monkeypatch.setattr(plan_module, "check_importance", check_importance)


def arrays_of(plan):
    return [plan.importance, plan.anchor, plan.weight, *plan.kept]


@pytest.mark.parametrize("recycled", [False, True])
@given(case=pruning_cases(exact=True))
def test_plans_are_identical(recycled, case):
    recycler = GridRecycler(cell=case.side) if recycled else None
    ours = make_plan(case.importance, case.layout, case.stages, case.counts, recycler)
    theirs = make_plan(torch.from_numpy(case.importance), case.layout, case.stages, case.counts, recycler)
    for numpy_array, tensor in zip(arrays_of(ours), arrays_of(theirs), strict=True):
        assert isinstance(numpy_array, np.ndarray)
        assert isinstance(tensor, torch.Tensor)
        assert str(numpy_array.dtype) == str(tensor.dtype).removeprefix("torch.")
    assert [kept.tolist() for kept in ours.kept] == [kept.tolist() for kept in theirs.kept]
    assert ours.anchor.tolist() == theirs.anchor.tolist()
    np.testing.assert_allclose(ours.weight, theirs.weight.numpy(), rtol=2e-7)
    back = theirs.to_host()
    assert all(isinstance(array, np.ndarray) for array in arrays_of(back))
    assert back.fates() == ours.fates() == theirs.fates()


def _grid_case():
    place = [(view, row, column) for view in range(2) for row in range(5) for column in range(4)]
    position = np.array([*place, (-1, -1, -1)])
    return plan_module.TokenLayout(position), np.random.default_rng(0).random(len(position)).astype(np.float32)


@pytest.mark.parametrize("counts", [(41, 41), (30, 10), (12, 5), (3, 1), (1, 1)])
@pytest.mark.parametrize("recycler", [None, GridRecycler(cell=1.7)])
def test_planning_does_not_read_from_the_device(no_reads, counts, recycler):
    layout, importance = _grid_case()
    plan = make_plan(torch.from_numpy(importance), layout, (0, 2), counts, recycler)
    assert plan.counts == counts
    assert all(isinstance(array, torch.Tensor) for array in arrays_of(plan))


@pytest.mark.parametrize("counts", [(41, 41), (30, 10), (12, 5), (3, 1)])
@pytest.mark.parametrize("recycler", [None, GridRecycler(cell=1.7)])
def test_planning_needs_no_values_at_all(monkeypatch, counts, recycler):
    """Meta tensors have shapes but no values: planning works on them, so no shape depends on data."""
    monkeypatch.setattr(plan_module, "check_importance", lambda importance, layout: importance)
    layout, importance = _grid_case()
    plan = make_plan(torch.from_numpy(importance).to("meta"), layout, (0, 2), counts, recycler)
    assert {array.device.type for array in arrays_of(plan)} == {"meta"}
    assert plan.counts == counts
    assert plan.weight.dtype == torch.float32


def test_scoring_does_not_read_from_the_device(no_reads):
    class Streamed(Attention):
        def received(self, queries=None, at_most=None):
            return self.matrix.sum(1) if queries is None else (self.matrix * queries[:, :, None]).sum(1)

    matrix = torch.rand(2, 16, 16, generator=torch.Generator().manual_seed(0)).softmax(-1)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for device in ("cpu", "meta"):
        source = Streamed(np.zeros((1, 1, 1)), "torch")
        source.matrix = matrix.to(device)

        class Context:
            attention = source
            entropy = patch_entropy(gray_levels(images.to(device)), 4)

            @staticmethod
            def to_tokens(patch_map):
                return patch_map.reshape(-1)

        score = CalibratedAttention(threshold=1.1, entropy_weight=0.5).score(Context)
        assert score.importance.device.type == score.details["calibration_patches"].device.type == device
        assert score.importance.dtype == torch.float32


@given(matrix=attention_matrices())
def test_scores_agree(matrix):
    ours, our_k = calibrated_attention(Attention(matrix), 1.3)
    theirs, their_k = calibrated_attention(Attention(matrix, "torch"), 1.3)
    received = matrix.astype(np.float64).sum(axis=1)
    assume((abs(received - 1.3 * received.mean(axis=-1, keepdims=True)) > 1e-4).all())
    assert our_k.tolist() == their_k.tolist()
    np.testing.assert_allclose(ours, host(theirs), rtol=1e-6)
    np.testing.assert_allclose(entropy_term(ours), host(entropy_term(theirs)), rtol=1e-6)
