"""Units that are planned together get the plans that each would get alone, and what follows from a layout is kept."""

import functools
from collections import Counter

import pytest
import torch

from support.cases import llava_next, llava_onevision, qwen2_vl, smolvlm
from support.waiting import Waits
from vflowopt import Progressive, Strategy
from vflowopt.components.mass import LogMass
from vflowopt.discovery.registry import component_types
from vflowopt.methods import DivPrune
from vflowopt.plugins import find_adapter
from vflowopt_hf.plans import unit_groups
from vflowopt_hf.testing.subject import Subject

CASES = {
    "onevision": llava_onevision.CASE,
    "next": llava_next.CASE,
    "qwen2-vl": qwen2_vl.CASE,
    "smolvlm": smolvlm.CASE,
}
STAGES = Progressive(stages=(0, 1), retention=(0.5, 0.6))
STRATEGIES = {
    "published": lambda own, batch: own.strategy(batch),
    "diverse": lambda *_: Strategy.vflowopt(stages=(0, 1), retention=(0.5, 0.6), diversity=0.4, threshold=1.2),
    "rank": lambda own, batch: own.strategy(batch).model_copy(update={"separators": "rank"}),
    "merge": lambda own, batch: own.strategy(batch).model_copy(update={"separators": "merge"}),
    "order": lambda *_: Strategy(scorer=DivPrune(), schedule=STAGES, mass=LogMass(gamma=0.5, weighted=True)),
}


@functools.cache
def subject(family):
    return Subject(CASES[family], "sdpa")


def different(inputs):
    """The inputs with other pixels in every image: equal sizes, other contents."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: value + 0.3 * torch.randn(value.shape, generator=generator) if "pixel_values" in name else value
        for name, value in inputs.items()
    }


def run(own, inputs, strategy):
    with own.prune(strategy) as pruning, torch.no_grad():
        own.model(**inputs)
        return pruning.plan, pruning.report


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("onevision", "published"), ("onevision", "diverse"), ("onevision", "rank"), ("onevision", "merge"),
        ("onevision", "order"), ("next", "published"), ("qwen2-vl", "published"), ("qwen2-vl", "order"),
        ("smolvlm", "order"),
    ],
)  # fmt: skip
def test_plans_are_those_of_each_unit_alone(family, name, monkeypatch):
    own = subject(family)
    batch = own.batch(own.image(0), own.image(1), own.image(0), own.image(0))
    inputs, strategy = different(batch.inputs), STRATEGIES[name](own, batch)
    together = []
    monkeypatch.setattr(torch.func, "vmap", counting(torch.func.vmap, together))
    plans, report = run(own, inputs, strategy)
    (units,) = together
    assert units >= 3
    monkeypatch.setattr(unit_groups, "PAIRS", 0)
    alone, expected = run(own, inputs, strategy)
    assert together == [units]
    assert report == expected
    for plan, other in zip(plans, alone, strict=True):
        for kept, its in zip(plan.kept, other.kept, strict=True):
            assert kept.tolist() == its.tolist()
        assert plan.anchor.tolist() == other.anchor.tolist()
        for values, its in zip(floats(plan), floats(other), strict=True):
            torch.testing.assert_close(torch.from_numpy(values), torch.from_numpy(its), rtol=1e-5, atol=1e-6)
    assert plans[0].kept[0].tolist() != plans[2].kept[0].tolist()


@pytest.mark.parametrize("name", [name for name, kind in component_types("scorer").items() if kind.vectorises])
def test_every_scorer_that_says_so_scores_several_units_at_once(name, monkeypatch):
    own, together = subject("next"), []  # which has a class token, too
    scorer = component_types("scorer")[name]()
    strategy = Strategy(scorer=scorer, schedule=STAGES, recycler=scorer.usual_recycler)
    inputs = different(own.batch(own.image(0), own.image(0)).inputs)
    monkeypatch.setattr(torch.func, "vmap", counting(torch.func.vmap, together))
    plans, _ = run(own, inputs, strategy)
    assert together == [2]
    monkeypatch.setattr(unit_groups, "PAIRS", 0)
    alone, _ = run(own, inputs, strategy)
    assert [[kept.tolist() for kept in plan.kept] for plan in plans] == [
        [kept.tolist() for kept in plan.kept] for plan in alone
    ]


def test_what_is_kept_of_a_layout_serves_every_gradient_mode():
    own = subject("onevision")
    batch = own.batch(own.image(0), own.image(1))
    with own.prune(STRATEGIES["order"](own, batch)):
        with torch.inference_mode():
            first = own.model(**batch.inputs).logits
        with torch.no_grad():
            second = own.model(**batch.inputs).logits
        third = own.model(**batch.inputs).logits
        third.sum().backward()
    own.model.zero_grad()
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def floats(plan):
    return [plan.importance, plan.weight, *plan.mass, *plan.bias, *(merge.weight for merge in plan.later.values())]


def counting(vmap, found):
    def counted(function):
        def call(numbers):
            found.append(len(numbers))
            return vmap(function)(numbers)

        return call

    return counted


def test_components_that_look_at_values_are_called_for_one_unit_after_the_other(monkeypatch):
    own, together = subject("onevision"), []
    inputs = own.batch(own.image(0), own.image(0)).inputs
    monkeypatch.setattr(torch.func, "vmap", counting(torch.func.vmap, together))
    run(own, inputs, find_adapter(own.model).default_strategy(own.model, 0.5).model_copy(update={"scorer": READING}))
    assert together == []


class Reading(DivPrune):
    """Reads a value back, which vmap would refuse; what DivPrune says of itself does not hold here."""

    def score_retaining(self, context, count):
        assert float(context.features.sum()) < float("inf")
        return super().score_retaining(context, count)


READING = Reading()


@pytest.mark.parametrize("name", ["published", "order"])
def test_a_prefill_of_a_known_layout_copies_nothing_to_the_device(name):
    own = subject("onevision")
    batch = own.batch(own.image(0), own.image(1), own.image(0))
    strategy, found = STRATEGIES[name](own, batch), []
    with own.prune(strategy), torch.no_grad():
        for _ in range(2):
            with Waits() as waits:
                handle = own.family.decoder(own.model).register_forward_pre_hook(
                    lambda *_, waits=waits: setattr(waits, "recording", True), prepend=True
                )
                own.model(**batch.inputs)
                handle.remove()
            found.append(Counter(waits.copies))
    first, second = found
    assert first.total() > 0
    assert second == Counter()
