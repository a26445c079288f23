"""Methods that rank by the decoder's own attention, against upstream's eager attention and the masking oracle."""

import functools
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from oracles.decoder_scoring import (
    from_last_token,
    from_own_and_cross,
    from_raters,
    from_raters_without_nearness,
    kept_tokens,
)
from support.cases import cohere2_vision, gemma3, llava, llava_onevision, nemotron_h, qwen2_vl
from support.repeats import repeats
from support.waiting import NoWaiting
from vflowopt import CalibratedAttention, Progressive, Strategy
from vflowopt.errors import PruningStateError, UnsupportedModelError
from vflowopt.methods import FastV, FitPrune, PyramidDrop, SparseVLM, SparseVLMPlus
from vflowopt.methods.fitprune import fit
from vflowopt_hf.adapter import TransformersAdapter
from vflowopt_hf.decoder.layer_kinds import has_keys
from vflowopt_hf.plans.decoder_attention import attention_module, observe_attention
from vflowopt_hf.plans.rotary import Rotary
from vflowopt_hf.plans.stage_plan import StagePlan
from vflowopt_hf.testing.checks import generating, pruning, restoring
from vflowopt_hf.testing.generation import generate, require_oracle_logits
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.probe import recorded_weights
from vflowopt_hf.testing.subject import Subject

STEPS = 6
CASES = {"onevision": llava_onevision.CASE, "qwen2-vl": qwen2_vl.CASE, "gemma3": gemma3.CASE}
METHODS = {
    "fastv": (FastV(), from_last_token),
    "pyramiddrop": (PyramidDrop(), from_last_token),
    "fitprune": (FitPrune(), from_own_and_cross),
    "sparsevlm": (SparseVLM(), from_raters),
    "sparsevlm-plus": (SparseVLMPlus(), from_raters_without_nearness),
}
BUDGET = 0.6
ANEW = Strategy(
    scorer=CalibratedAttention(diversity=0.5),
    schedule=Progressive(stages=(0, 2, 4), retention=(0.7, 0.6, 0.5)),
    rescorer=FastV(),
)
"""One stage before the LLM, the later ones by what the decoder attends to among its tokens."""


@functools.cache
def subject(family, attention):
    return Subject(CASES[family], attention)


def batches(subject):
    """One image, and a ragged batch with several images and a sample without any."""
    return {"single": subject.batch(subject.image(1)), "ragged": subject.batch(*subject.ragged())}


def schedule_of(method, budget, subject):
    if method == "fitprune":  # whose own schedule is fitted to samples
        return Progressive.geometric(budget, (1, 2, 4), subject.num_layers)
    return METHODS[method][0].schedule(budget, subject.num_layers)


def strategy_of(method, subject):
    return Strategy(scorer=METHODS[method][0], schedule=schedule_of(method, BUDGET, subject))


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        pytest.param(family, attention, marks=[pytest.mark.slow] * (attention == "eager" and family != "onevision"))
        for family in CASES
        for attention in ("eager", "sdpa")
    ],
)
@pytest.mark.parametrize("size", ["ragged", *repeats("single")])
@pytest.mark.parametrize("method", METHODS)
def test_against_upstreams_attention_and_masks(method, family, size, attention):
    own = subject(family, attention)
    batch, strategy = batches(own)[size], strategy_of(method, own)
    with own.prune(strategy) as session:
        output = generate(own, batch.inputs, STEPS)
        plans, report = session.plan, session.report
    assert [plan.counts for plan in plans] == [strategy.schedule.counts(plan.tokens) for plan in plans]
    assert all(plan.counts[-1] < plan.tokens for plan in plans)
    assert abs(report.retention - BUDGET) < 0.02
    expected = kept_tokens(subject(family, "eager"), batch, plans, METHODS[method][1])
    assert [[kept.tolist() for kept in plan.kept] for plan in plans] == expected
    require_oracle_logits(Oracle(own, batch, plans), output, method)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("size", ["single", "ragged"])
@pytest.mark.parametrize("family", CASES)
def test_ranked_anew_after_a_first_stage_before_the_llm(family, size, attention):
    """The first stage keeps what its own scorer chooses; of that, later ones keep what upstream's attention says."""
    own = subject(family, attention)
    batch = batches(own)[size]
    with own.prune(ANEW.model_copy(update={"rescorer": None})) as session, torch.no_grad():
        own.model(**batch.inputs)
        alike = session.plan
    with own.prune(ANEW) as session:
        output = generate(own, batch.inputs, STEPS)
        plans = session.plan
    assert [plan.counts for plan in plans] == [plan.counts for plan in alike]
    assert [plan.kept[0].tolist() for plan in plans] == [plan.kept[0].tolist() for plan in alike]
    assert any(plan.kept[1].tolist() != other.kept[1].tolist() for plan, other in zip(plans, alike, strict=True))
    expected = kept_tokens(subject(family, "eager"), batch, plans, from_last_token)
    assert [[kept.tolist() for kept in plan.kept] for plan in plans] == expected
    require_oracle_logits(Oracle(own, batch, plans), output, "ranked anew")


def test_nearness_where_not_every_layer_turns():
    own, eager = (Subject(cohere2_vision.CASE, attention) for attention in ("sdpa", "eager"))
    batch, strategy = own.batch(own.image(1), own.several()), strategy_of("sparsevlm-plus", own)
    with own.prune(strategy) as session, torch.no_grad():
        own.model(**batch.inputs)
    expected = kept_tokens(eager, batch, session.plan, from_raters_without_nearness)
    assert [[kept.tolist() for kept in plan.kept] for plan in session.plan] == expected


@pytest.mark.parametrize(
    "case", [cohere2_vision.CASE, nemotron_h.CASE, gemma3.CASE], ids=["cohere2", "nemotron-h", "gemma3"]
)
def test_which_layers_turn_by_the_tables_that_they_are_given(case):
    own = Subject(case, "sdpa")
    batch, decoder = own.batch(own.image(0)), own.family.decoder(own.model)

    def other_tables(_module, args, kwargs):
        cosines, sines = kwargs.get("position_embeddings", (torch.ones(()), torch.ones(())))
        return args, {**kwargs, "position_embeddings": (-cosines, sines)} if cosines.ndim else kwargs

    for index, layer in enumerate(decoder.layers):
        if not has_keys(decoder.config, index):
            continue
        queries = []
        with (
            observe_attention(attention_module(layer), lambda call, seen=queries: seen.append(call.query)),
            torch.no_grad(),
        ):
            own.model(**batch.inputs)
            with layer.register_forward_pre_hook(other_tables, with_kwargs=True):
                own.model(**batch.inputs)
        given = case is not nemotron_h.CASE
        assert torch.equal(*queries) != (given and Rotary.of((), attention_module(layer), 12) is not None)


def test_positions_that_are_no_tables_are_refused():
    own = subject("onevision", "sdpa")
    batch, layers = batches(own)["single"], own.family.decoder(own.model).layers

    def as_complex_numbers(_module, args, kwargs):
        cosines, sines = kwargs["position_embeddings"]
        return args, {**kwargs, "position_embeddings": torch.complex(cosines, sines)}

    def back(_module, args, kwargs):
        turned = kwargs["position_embeddings"]
        return args, {**kwargs, "position_embeddings": (turned.real, turned.imag)}

    strategy = strategy_of("sparsevlm-plus", own)
    first = strategy.schedule.boundaries[0] - 1
    with (
        layers[first].register_forward_pre_hook(as_complex_numbers, with_kwargs=True),
        own.prune(strategy),
        layers[first].register_forward_pre_hook(back, with_kwargs=True),
        torch.no_grad(),
        pytest.raises(UnsupportedModelError, match=r"positions are a tensor of .*complex64, not tables"),
    ):
        own.model(**batch.inputs)


class RankedInside(Subject):
    """The kit's strategies with stages inside the decoder, each ranked by the decoder's attention."""

    def strategy(self, batch, stages=None, *, cell=2.5, **_):
        usual = super().strategy(batch, stages, cell=cell)
        stages = tuple(max(1, stage) for stage in usual.schedule.boundaries)
        return usual.model_copy(
            update={
                "scorer": PyramidDrop(),
                "schedule": Progressive(stages=stages, retention=usual.schedule.retention),
            }
        )


class RankedAnew(Subject):
    """The kit's strategies with a stage before the LLM, what is left ranked anew inside."""

    def strategy(self, batch, stages=None, *, cell=2.5, **_):
        usual = super().strategy(batch, stages, cell=cell)
        return usual.model_copy(update={"rescorer": FastV()}) if 0 in usual.schedule.boundaries[:-1] else usual


RUNTIME = [
    pruning.image,
    pruning.several_images,
    pruning.video,
    pruning.ragged_batch,
    pruning.batch_invariance,
    generating.beam_search,
    generating.sampling,
    generating.conversation,
    generating.outside_the_block,
    restoring.clean_exit,
]


@pytest.mark.parametrize(
    ("ranked", "family"), [(RankedInside, "onevision"), (RankedInside, "qwen2-vl"), (RankedAnew, "onevision")]
)
@pytest.mark.parametrize("check", RUNTIME, ids=lambda check: check.__name__)
def test_the_runtime_keeps_its_promises(check, ranked, family):
    """Recycling inside the decoder, video, beams, several turns, errors: the conformance kit's own checks."""
    check(ranked(CASES[family], "sdpa"))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("method", METHODS)
def test_retention_1_is_upstream_bit_for_bit(method, attention):
    own = subject("onevision", attention)
    scorer = METHODS[method][0]
    keep_all = Strategy(scorer=scorer, schedule=schedule_of(method, 1.0, own))
    for batch in batches(own).values():
        expected = generate(own, batch.inputs, STEPS)
        with own.prune(keep_all) as session:
            output = generate(own, batch.inputs, STEPS)
        assert torch.equal(output.sequences, expected.sequences)
        assert all(map(torch.equal, output.logits, expected.logits))
        assert all(plan.is_identity for plan in session.plan)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_observing_changes_no_bit(attention):
    """Until the first stage the decoder computes what it computes alone, and nothing else is written to the cache."""
    own = subject("onevision", attention)
    batch, strategy = batches(own)["single"], strategy_of("fastv", own)
    with torch.no_grad():
        expected = own.model(**batch.inputs, use_cache=True).past_key_values
        with own.prune(strategy):
            cache = own.model(**batch.inputs, use_cache=True).past_key_values
    (first,) = strategy.schedule.boundaries
    for layer in range(first):
        assert torch.equal(cache.layers[layer].keys, expected.layers[layer].keys)
        assert torch.equal(cache.layers[layer].values, expected.layers[layer].values)


@pytest.mark.parametrize("method", [*METHODS, "anew"])
def test_a_second_turn_ranks_its_own_images_by_its_own_text(method):
    """In a conversation the cache holds more than the rows of the forward, and less of what was pruned."""
    own = Subject(llava.CASE, "sdpa")
    strategy, rule = (ANEW, from_last_token) if method == "anew" else (strategy_of(method, own), METHODS[method][1])
    batch = own.batch(own.several())
    cut = int(batch.placed[0].rows[-1]) + 2
    ids, mask, pixels = (batch.inputs[name] for name in ("input_ids", "attention_mask", "pixel_values"))
    with own.prune(strategy) as session, torch.no_grad():
        first = own.model(input_ids=ids[:, :cut], attention_mask=mask[:, :cut], pixel_values=pixels[:1], use_cache=True)
        earlier = session.plan
        second = own.model(
            input_ids=ids[:, cut:], attention_mask=mask, pixel_values=pixels[1:], past_key_values=first.past_key_values
        )
        plans = [*earlier, *session.plan]
    expected = kept_tokens(Subject(llava.CASE, "eager"), batch, plans, rule, decided=earlier)
    assert [[kept.tolist() for kept in plan.kept] for plan in plans] == expected
    logits = Oracle(own, batch, plans).logits(ids)[:, cut:]
    assert (second.logits[:, -1] - logits[:, -1]).abs().max() <= 1e-5


def test_padding_on_the_right_does_not_move_the_last_token():
    own = subject("onevision", "sdpa")
    batch, strategy = batches(own)["single"], strategy_of("fastv", own)
    padded = dict(batch.inputs)
    for name, value in (("input_ids", own.case.pad_token), ("attention_mask", 0)):
        padded[name] = torch.nn.functional.pad(batch.inputs[name], (0, 3), value=value)
    with own.prune(strategy) as session, torch.no_grad():
        own.model(**batch.inputs)
        expected = session.plan
        own.model(**padded)
        plans = session.plan
    assert [plan.kept[0].tolist() for plan in plans] == [plan.kept[0].tolist() for plan in expected]


@pytest.mark.parametrize("method", METHODS)
def test_deciding_a_stage_waits_for_nothing(method, monkeypatch):
    own, decided = subject("onevision", "sdpa"), []
    decide = StagePlan.decide

    def watched(plan, *seen):
        with NoWaiting():
            decide(plan, *seen)
        decided.append(len(plan.stages))

    monkeypatch.setattr(StagePlan, "decide", watched)
    batch, strategy = batches(own)["ragged"], strategy_of(method, own)
    with own.prune(strategy), torch.no_grad():
        own.model(**batch.inputs)
    assert decided == list(range(1, len(strategy.schedule.boundaries) + 1))
    with NoWaiting(), pytest.raises(AssertionError, match="waits"):
        torch.ones(3)[torch.tensor([True, False, True])]


@pytest.mark.parametrize("method", METHODS)
def test_search_and_bench_prune_as_prune_does(method):
    own = subject("qwen2-vl", "sdpa")
    batch, strategy = batches(own)["single"], strategy_of(method, own)
    adapter = TransformersAdapter(own.family)
    with own.prune(strategy) as session, torch.no_grad():
        pruned = own.family.backbone(own.model)(**batch.inputs).last_hidden_state[0, -1]
        report = session.report
    with torch.no_grad():
        full = own.family.backbone(own.model)(**batch.inputs).last_hidden_state[0, -1]
    found = adapter.evaluator(own.model, [batch.inputs]).evaluate(strategy)
    assert abs(found.score - float(torch.cosine_similarity(pruned, full, dim=0))) < 1e-6
    assert found.retention == pytest.approx(report.retention)
    measured = adapter.benchmark(own.model, batch.inputs, {method: strategy}, rounds=1)
    row = measured.rows[1]
    assert (row.lengths, row.kv_cache_bytes) == (report.sequence_lengths, report.kv_cache_bytes)
    assert row.tokens == (report.units[0].tokens, *report.units[0].counts)


def test_a_forward_that_ends_early_has_no_report():
    own = subject("onevision", "sdpa")
    batch, strategy = batches(own)["single"], strategy_of("pyramiddrop", own)
    layer = own.family.decoder(own.model).layers[2]
    handle = layer.register_forward_pre_hook(lambda *_: 1 / 0)
    with own.prune(strategy) as session, torch.no_grad():
        with pytest.raises(ZeroDivisionError):
            own.model(**batch.inputs)
        handle.remove()
        with pytest.raises(PruningStateError, match="ended before"):
            _ = session.report
        own.model(**batch.inputs)
        assert session.report.units


def test_a_decoder_that_cannot_be_observed():
    own = Subject(CASES["onevision"], "sdpa")
    layer = own.family.decoder(own.model).layers[1]
    layer.attention = layer._modules.pop("self_attn")
    with (
        pytest.raises(UnsupportedModelError, match="no attention module self_attn"),
        own.prune(strategy_of("fastv", own)),
    ):
        pass


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", CASES)
def test_received_attention_is_that_of_upstreams_weights(family, attention):
    own, eager = subject(family, attention), subject(family, "eager")
    samples = [own.batch(own.image(1)), own.batch(own.several())]
    found = TransformersAdapter(own.family).received_attention(own.model, [batch.inputs for batch in samples])
    layers = eager.family.decoder(eager.model).layers
    for batch in samples:
        with ExitStack() as stack, torch.no_grad():
            calls = [stack.enter_context(recorded_weights(layer.self_attn)) for layer in layers]
            eager.model(**batch.inputs)
        images = {int(row) for placed in batch.placed for row in placed.rows}
        texts = [row for row in range(batch.inputs["input_ids"].shape[1]) if row not in images]
        for placed in batch.placed:
            unit = found.pop(0)
            after = [row for row in texts if row > placed.rows[-1]]
            assert (unit.structural == placed.unit.layout.structural).all()
            for layer, (weights,) in enumerate(calls):
                most = weights[0].double().numpy().max(axis=0)[:, placed.rows]
                np.testing.assert_allclose(unit.own[layer], most[placed.rows].mean(axis=0), rtol=1e-3, atol=1e-6)
                np.testing.assert_allclose(unit.cross[layer], most[after].mean(axis=0), rtol=1e-3, atol=1e-6)
    assert not found


def test_a_fitted_recipe_meets_its_budget():
    own = subject("onevision", "sdpa")
    batch = own.batch(own.image(1))
    seen = TransformersAdapter(own.family).received_attention(own.model, [batch.inputs])
    strategy = Strategy(scorer=FitPrune(), schedule=fit(seen, BUDGET))
    assert strategy.average_retention(own.num_layers) == pytest.approx(BUDGET, abs=1e-12)
    with own.prune(Strategy.parse(strategy.to_json())) as session:
        output = generate(own, batch.inputs, STEPS)
        plans = session.plan
    assert session.report.retention == pytest.approx(BUDGET, abs=0.02)
    assert [plan.counts for plan in plans] == [strategy.schedule.counts(plan.tokens) for plan in plans]
    require_oracle_logits(Oracle(own, batch, plans), output, "fitted")
