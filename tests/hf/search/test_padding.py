"""A sample scores, ranks and is measured as the same sample without padding, wherever that stands."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.cases import gemma3, llava_next, llava_onevision, qwen2_vl
from vflowopt import Progressive, Strategy
from vflowopt.errors import InputError
from vflowopt.methods import FastV, FitPrune, SparseVLM
from vflowopt_hf.decoder.padding import without_padding
from vflowopt_hf.search.objectives import OBJECTIVES
from vflowopt_hf.testing.batches import with_extra_inputs
from vflowopt_hf.testing.subject import Subject

CASES = {
    "onevision": llava_onevision.CASE,
    "llava-next": llava_next.CASE,
    "qwen2-vl": qwen2_vl.CASE,
    "gemma3": gemma3.CASE,
}
families = pytest.mark.parametrize("family", CASES)
amounts = given(left=st.integers(0, 5), right=st.integers(0, 5))
SCORED = [
    (objective, *ends)
    for objective, ends in zip(OBJECTIVES, [(3, 0), (0, 1), (5, 5), (1, 4), (2, 2), (0, 5)], strict=True)
]
"""Whatever is compared, the padding was cut off before: each objective gets other amounts of it."""


@functools.cache
def subject(family):
    return Subject(CASES[family], "sdpa")


def padded(own, inputs, left, right):
    """The prompts with padding at their ends."""
    text = {"input_ids": own.case.pad_token, "attention_mask": 0}
    wider = {name: torch.nn.functional.pad(inputs[name], (left, right), value=value) for name, value in text.items()}
    return with_extra_inputs(own.case, own.model, {**inputs, **wider})


@pytest.mark.parametrize(("objective", "left", "right"), SCORED)
@families
def test_scores(family, objective, left, right):
    own = subject(family)
    batch = own.batch(own.several())
    strategy = own.strategy(batch)
    inputs = [batch.inputs, padded(own, batch.inputs, left, right)]
    alone, wide = (own.adapter.evaluator(own.model, [one], objective=objective).evaluate(strategy) for one in inputs)
    assert wide.score == alone.score
    assert wide.retention == alone.retention


@families
def test_keeping_everything_scores_one(family):
    own = subject(family)
    keep = Strategy.vflowopt(num_layers=own.num_layers, retention=(1.0,), stages=(0,))
    inputs = padded(own, own.batch(own.image(0)).inputs, 2, 3)
    assert own.adapter.evaluator(own.model, [inputs]).evaluate(keep).score == pytest.approx(1, abs=1e-6)


@families
def test_padded_samples_run_in_one_batch_with_others(family):
    """As many tokens, hence the same key."""
    own = subject(family)
    batch = own.batch(own.image(0))
    inputs = [batch.inputs, padded(own, batch.inputs, 1, 4)]
    evaluator = own.adapter.evaluator(own.model, inputs, batch_tokens=4096)
    assert evaluator.lengths == [batch.inputs["input_ids"].shape[1]] * 2
    together = evaluator.outcomes(own.strategy(batch)).similarities
    assert together[0] == pytest.approx(together[1], abs=1e-6)


@families
def test_flow_and_received_attention(family):
    own = subject(family)
    batch = own.batch(own.several())
    wide, strategies = padded(own, batch.inputs, 3, 2), {"s": own.strategy(batch)}
    found, expected = (own.adapter.flow(own.model, [inputs], strategies) for inputs in (wide, batch.inputs))
    for name, values in expected.strategies[0].values.items():
        assert np.array_equal(found.strategies[0].values[name], values)
    found, expected = (own.adapter.received_attention(own.model, [inputs]) for inputs in (wide, batch.inputs))
    for got, want in zip(found, expected, strict=True):
        assert np.array_equal(got.own, want.own)
        assert np.array_equal(got.cross, want.cross)


@pytest.mark.parametrize("family", ["qwen2-vl", "gemma3"])  # with inputs of their own along the tokens
def test_bench_and_calibration_run_without_it(family):
    own, rows = subject(family), set()
    batch = own.batch(own.image(0))
    wide, strategy = padded(own, batch.inputs, 3, 2), own.strategy(batch)
    length = batch.inputs["input_ids"].shape[1]
    found, expected = (
        own.adapter.benchmark(own.model, inputs, {"s": strategy}, rounds=1) for inputs in (wide, batch.inputs)
    )
    assert [row.lengths for row in found.rows] == [row.lengths for row in expected.rows]
    assert found.text_tokens == expected.text_tokens
    handle = own.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: rows.add(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    own.adapter.calibrate(own.model, [wide], [strategy], rounds=1)
    handle.remove()
    assert rows == {length}


SCORERS = {"vision": None, "fastv": FastV(), "sparsevlm": SparseVLM(), "fitprune": FitPrune()}


@pytest.mark.parametrize("scorer", SCORERS)
@families
@settings(max_examples=3)
@amounts
def test_a_padded_batch_is_pruned_as_its_samples_alone(family, scorer, left, right):
    """The last row of the output is each sample's last token, on whichever side the padding is."""
    own = subject(family)
    samples = [own.image(0), own.several()]
    alone = [own.batch(sample) for sample in samples]
    strategy = own.strategy(alone[1])
    if SCORERS[scorer] is not None:
        strategy = Strategy(scorer=SCORERS[scorer], schedule=Progressive(stages=(1, 3), retention=(0.6, 0.6)))
    together = own.batch(*samples)
    inputs = padded(own, on_the_right(together.inputs), left, right)
    with own.prune(strategy) as pruning, torch.no_grad():
        logits = own.model(**inputs).logits[:, -1]
        plans = pruning.plan
        for number, batch in enumerate(alone):
            expected = own.model(**batch.inputs).logits[0, -1]
            kept = [plan for plan, unit in zip(plans, together.placed, strict=True) if unit.sample == number]
            assert [[list(one) for one in plan.kept] for plan in kept] == [
                [list(one) for one in plan.kept] for plan in pruning.plan
            ]
            assert torch.isclose(logits[number], expected, rtol=1e-4, atol=1e-5).all()


def on_the_right(inputs):
    """The same prompts, their padding moved from the left to the right."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    order = mask.argsort(dim=1, descending=True, stable=True)
    return {**inputs, "input_ids": ids.gather(1, order), "attention_mask": mask.gather(1, order)}


def test_what_goes_along_the_tokens_is_cut_with_them():
    ids = torch.arange(7)[None]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1, 0]]),
        "token_type_ids": ids + 10,
        "position_ids": torch.stack([ids, ids + 20, ids + 30]),
        "pixel_values": torch.zeros(1, 3, 7, 7),
        "image_sizes": torch.zeros(2, 2),
    }
    found = without_padding(inputs)
    assert found["input_ids"].tolist() == [[2, 3, 4, 5]]
    assert found["attention_mask"].tolist() == [[1] * 4]
    assert found["token_type_ids"].tolist() == [[12, 13, 14, 15]]
    assert found["position_ids"][2].tolist() == [[32, 33, 34, 35]]
    assert all(found[name] is inputs[name] for name in ("pixel_values", "image_sizes"))
    assert without_padding({"input_ids": ids}) == {"input_ids": ids}


def test_padding_between_tokens_and_nothing_but_padding_are_refused():
    own = subject("onevision")
    good = own.batch(own.image(0)).inputs
    holes, nothing = (dict(good, attention_mask=good["attention_mask"].clone()) for _ in range(2))
    holes["attention_mask"][:, 5:7] = 0
    nothing["attention_mask"][:] = 0
    with pytest.raises(InputError, match="sample 1: the attention mask hides 2 tokens between others"):
        own.adapter.evaluator(own.model, [good, holes])
    with pytest.raises(InputError, match=r"sample 1: the attention mask hides all \d+ tokens"):
        own.adapter.evaluator(own.model, [good, nothing])
    with pytest.raises(InputError, match="hides 2 tokens between others"):
        own.adapter.benchmark(own.model, holes, {}, rounds=1)
