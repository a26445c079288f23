"""What pruning costs the host: counts that must not grow, on a narrow model as deep as a published one."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from support.repeats import repeats
from vflowopt import Strategy
from vflowopt.adapter import strategy_of
from vflowopt.cli.bench_subjects import shapes
from vflowopt.components.greedy import choose_greedily
from vflowopt.strategies.reading import read_strategy
from vflowopt_hf.measure.bench.inputs import repeated
from vflowopt_hf.measure.host_cost import HEADER, Operators, compare, main, own_calls
from vflowopt_hf.plans import unit_context, unit_groups
from vflowopt_hf.upstream import cache_from, with_cache

PUBLISHED = Strategy.preset("llava-onevision-7b/10")
DEPTH = 28


@pytest.fixture(scope="module")
def narrow():
    adapter, shape = shapes()["llava-onevision-narrow"]
    model = shape.build("cpu", "auto")
    return adapter, model, shape.inputs(model, 300, 20)


@pytest.mark.parametrize(("batch", "most"), [(1, 250), (8, 400)])
def test_a_prefill_and_a_step(narrow, batch, most):
    adapter, model, one = narrow
    prefill, step = compare(adapter, model, repeated(one, batch), PUBLISHED, rounds=1)
    assert 0 < prefill.surplus <= most
    assert step.surplus == 0
    assert step.pruned.waits == 0


def one_launch(first, distance, steps, worth=None):
    """In place of a kernel, which is no operator of torch, either."""
    with _disable_current_modes():
        each = zip(first, distance, [None] * len(first) if worth is None else worth, strict=True)
        chosen = [choose_greedily(*unit[:2], steps, unit[2]) for unit in each]
        return tuple(map(torch.stack, zip(*chosen, strict=True)))


@pytest.mark.parametrize(
    ("scorer", "batch", "most", "budgets"),
    [
        ("divprune@", 1, 250, (0.1, 0.5)),
        ("", 8, 500, (0.25,)),
        *repeats(("divprune@", 8, 400, (0.1,)), ("", 1, 400, (0.25,))),
    ],
)
def test_where_one_launch_chooses_all_tokens(narrow, scorer, batch, most, budgets, monkeypatch):
    """A budget alone is DivPrune with mass."""
    adapter, model, one = narrow
    for module in (unit_context, unit_groups):
        monkeypatch.setattr(module, "fused_order", lambda *_: one_launch)
    surplus = set()
    for budget in budgets:
        strategy = strategy_of(adapter, model, read_strategy(f"{scorer}{budget}"))
        prefill, _ = compare(adapter, model, repeated(one, batch), strategy, rounds=1)
        surplus.add(prefill.surplus)
    assert 0 < max(surplus) <= most
    assert len(surplus) == 1  # however many are retained


def test_a_step_runs_no_python_of_ours_per_layer_but_the_cache_layers_own(narrow):
    adapter, model, inputs = narrow
    with adapter.prune(model, PUBLISHED), torch.no_grad():
        cache = cache_from(model(**inputs, use_cache=True))
        step = with_cache(model, {"input_ids": inputs["input_ids"][:, -1:]}, cache)
        model(**step)
        with own_calls() as found:
            model(**step)
    assert [name for name, count in Counter(found).items() if count >= DEPTH] == ["cache.py:PrunedLayer.update"]


def test_operators_are_told_apart():
    values, chosen = torch.arange(4.0), torch.tensor([True, False, True, False])
    with Operators() as seen:
        values.sum().item()  # waits
        values[chosen]  # likewise: its shape is that of the answer
        values[torch.tensor([0, 2])] + 1
    assert (seen.waits, seen.copies) == (2, 0)
    assert seen.calls >= 5


def test_the_table(capsys):
    main(
        [
            "--shapes",
            "llava-onevision-narrow",
            "--strategies",
            "llava-onevision-7b/10",
            "--batches",
            "1",
            "--rounds",
            "1",
        ]
    )
    header, line, prefill, step = capsys.readouterr().out.splitlines()
    assert header == f"| {' | '.join(HEADER)} |"
    assert set(line) == set("| -")
    assert " | prefill | " in prefill
    assert " | step | " in step
    assert " | +0 | " in step


@pytest.mark.gpu
@pytest.mark.parametrize("batch", [1, 8])
def test_a_known_layout_is_not_copied_to_the_device_again(batch):
    adapter, shape = shapes()["llava-onevision-narrow"]
    model = shape.build("cuda", "auto")
    prefill, step = compare(adapter, model, repeated(shape.inputs(model, 300, 20), batch), PUBLISHED, rounds=1)
    assert prefill.pruned.copies <= prefill.unpruned.copies
    assert step.pruned.copies == step.unpruned.copies
