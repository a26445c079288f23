"""Tokens chosen one after the other by a kernel: those that the loop of stock operators chooses, to the bit."""

import pytest
import torch

from support.cases import llava_next
from support.interpreter import DEVICE, compiled, needs_compiler, on_device
from vflowopt import Progressive, Strategy
from vflowopt.components.greedy import choose_greedily
from vflowopt.components.mass import LogMass
from vflowopt.methods import MMR, DivPrune
from vflowopt_hf.plans import unit_context, unit_groups
from vflowopt_hf.testing.subject import Subject


def numbers(*shape, seed=0, levels=None):
    """Few levels make many of them equal."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(shape, generator=generator)
    return (drawn if levels is None else (drawn * levels).round() / levels).to(DEVICE)


SIZES = [(1, 1, 1), (1, 7, 0), (3, 7, 7), (2, 130, 40), (1, 512, 3)]  # units, tokens, steps


@on_device
@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_choices_are_those_of_stock_operators(size, weighted, levels):
    from vflowopt_hf.kernels import fused_order

    units, tokens, steps = size
    first, worth = (numbers(units, tokens, seed=seed, levels=levels) for seed in range(2))
    distance = numbers(units, tokens, tokens, seed=2, levels=levels)
    distance.diagonal(dim1=1, dim2=2).fill_(-float("inf"))
    chosen, score = fused_order.choose_greedily(first, distance, steps, worth if weighted else None)
    for unit in range(units):
        own = worth[unit] if weighted else None
        expected, left = choose_greedily(first[unit], distance[unit], steps, own)
        assert torch.equal(chosen[unit], expected)
        assert torch.equal(score[unit], left)


@on_device
@pytest.mark.parametrize("broken", [slice(None), slice(3, 4)], ids=["all", "some"])
def test_what_is_not_a_number_leads_nowhere_else(broken):
    from vflowopt_hf.kernels import fused_order

    first, distance = numbers(2, 5), numbers(2, 5, 5, seed=1)
    first[:, broken] = distance[:, broken] = distance[:, :, broken] = float("nan")
    chosen, _ = fused_order.choose_greedily(first, distance, 4)
    assert chosen.min() >= 0
    assert chosen.max() < 5


@on_device
@pytest.mark.parametrize("scorer", [DivPrune(), MMR(relevance=0.5)])
@pytest.mark.parametrize("samples", [1, 2], ids=["one", "together"])
def test_units_are_planned_alike_alone_and_together(scorer, samples, monkeypatch):
    """The second, of two samples whose images are of one size, goes through ``torch.func.vmap``."""
    from vflowopt_hf.kernels import fused_order

    calls = []

    def kernel(*arguments):
        calls.append(len(arguments[0]))
        return fused_order.choose_greedily(*arguments)

    subject = Subject(llava_next.CASE, "sdpa")
    subject.model.to(DEVICE)
    batch = subject.batch(*(subject.image(1) for _ in range(samples)))
    inputs = {name: value.to(DEVICE) for name, value in batch.inputs.items()}
    strategy = Strategy(scorer=scorer, schedule=Progressive.flat(0.4), mass=LogMass(gamma=1))
    found = {}
    for name, served in (("stock", None), ("fused", kernel)):
        for module in (unit_context, unit_groups):
            monkeypatch.setattr(module, "fused_order", lambda *_, served=served: served)
        with subject.prune(strategy) as pruning, torch.no_grad():
            logits = subject.model(**inputs).logits
        found[name] = logits, [torch.as_tensor(unit.importance) for unit in pruning.plan]
    assert calls == [samples]
    assert torch.equal(found["stock"][0], found["fused"][0])
    for stock, fused in zip(*(found[name][1] for name in ("stock", "fused")), strict=True):
        assert torch.equal(stock, fused)


@needs_compiler
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("block", [256, 16_384])
def test_the_kernel_compiles_for_a_gpu(block, weighted, tmp_path, monkeypatch):
    pytest.importorskip("triton", reason="there is no Triton for this platform")
    from vflowopt_hf.kernels import fused_order

    kinds = dict.fromkeys(("first", "distance", "worth", "score"), "*fp32") | {"chosen": "*i64"}
    fixed, warps = {"WORTH": weighted, "BLOCK": block}, fused_order.warps(block)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert f".reqntid {32 * warps}" in compiled(fused_order._choose, kinds, fixed, num_warps=warps)
