"""Recycling inside the decoder: SparseVLM against a full-length forward, and the runtime's promises with it."""

import functools
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from oracles.decoder_scoring import raters
from oracles.sparsevlm import rank_of
from oracles.sparsevlm_forward import Unit, run
from support.cases import llava_onevision, qwen3_vl
from support.masked_oracle import place, unpruned_embeddings
from support.tiny import IMAGE, LAYERS, image_inputs, tiny_onevision
from support.waiting import NoWaiting
from vflowopt import Progressive, Strategy, prune
from vflowopt.components.baselines import RandomTokens
from vflowopt.errors import StrategyError
from vflowopt.methods import AdaptiveSparseVLM, DensityPeaks, PyramidDrop, SparseVLM
from vflowopt.picture import token_fates
from vflowopt_hf.adapter import TransformersAdapter
from vflowopt_hf.decoder import staged_layers
from vflowopt_hf.plans.stage_plan import StagePlan
from vflowopt_hf.testing.checks import generating, pruning, restoring
from vflowopt_hf.testing.generation import generate, require_oracle_logits
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.probe import embed, recorded_weights
from vflowopt_hf.testing.subject import Subject

STEPS = 6
SEEDS = {"keep": 0, "rank": 0, "merge": 18, "drop": 18}
"""Of pictures on which no choice hangs on rounding."""
STAGES = Progressive(stages=(1, 2, 4), retention=(0.7, 0.6, 0.7))
BATCHES = {"one": [[(84, 84)]], "unequal": [[(84, 84)], [(42, 70), (42, 42)]]}
CASES = {"onevision": llava_onevision.CASE, "qwen3-vl": qwen3_vl.CASE}


@functools.cache
def model(attention):
    return tiny_onevision(attention)


@functools.cache
def subject(family, attention="sdpa"):
    return Subject(CASES[family], attention)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("size", BATCHES)
@pytest.mark.parametrize("separators", SEEDS)
def test_against_a_full_length_forward(size, attention, separators):
    """Prefill and decode steps: raters, ranking, clusters, merged states and masks, all found anew by the oracle."""
    inputs = image_inputs(model("eager"), BATCHES[size], seed=SEEDS[separators])
    strategy = Strategy(scorer=SparseVLM(), schedule=STAGES, recycler=DensityPeaks(), separators=separators)
    with prune(model(attention), strategy) as session, torch.no_grad():
        out = model(attention).generate(
            **inputs, max_new_tokens=STEPS + 1, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        made, report = session.plan, session.report
    prompt = inputs["input_ids"].shape[1]
    generated = out.sequences[:, prompt:-1]
    embeddings = unpruned_embeddings(model(attention), inputs)
    with torch.no_grad():
        full = torch.cat([embeddings, model(attention).get_input_embeddings()(generated)], dim=1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(generated)], dim=1)
    places = place(inputs["input_ids"], made, (IMAGE,))
    units = [Unit(sample, rows, plan.position, strategy.separators) for sample, rows, plan in places]
    counts = [STAGES.counts(len(unit.rows)) for unit in units]
    expected = run(model(attention), model("eager"), full, mask, units, STAGES.stages, counts, prompt)
    for plan, unit, known in zip(made, units, counts, strict=True):
        assert plan.counts == known
        for stage, outcome in enumerate(unit.outcomes):
            assert outcome.margin > 1e-4  # nothing hangs on rounding
            merge = plan.merge_at(stage)
            assert plan.kept[stage].tolist() == sorted(outcome.retained)
            assert merge.anchor.tolist() == list(outcome.anchor.values())
            np.testing.assert_allclose(merge.weight, list(outcome.weight.values()), rtol=1e-6)
            assert (np.bincount(merge.anchor[merge.anchor >= 0]) > 1).any()
        assert plan.later.keys() == {1, 2}
    got = torch.stack(out.logits, dim=1)
    expected = expected[:, -(STEPS + 1) :]
    assert (got - expected).abs().max() <= 1e-5
    assert expected.abs().max() > 0.1  # the bound means something
    widths = [report.sequence_lengths[stage] for stage in STAGES.stages]
    text = [int(row.sum()) for row in inputs["attention_mask"]]
    for unit in units:
        text[unit.sample] -= len(unit.rows)
    for stage, width in enumerate(widths):
        samples = [
            text[sample] + sum(known[stage] for unit, known in zip(units, counts, strict=True) if unit.sample == sample)
            for sample in range(len(text))
        ]
        assert width == max(samples)
    assert len(report.sequence_lengths) == LAYERS


class Recycling(Subject):
    """The kit's strategies with this recycler, ranked before the LLM or by the decoder's attention."""

    scorer = None

    def strategy(self, batch, stages=None, *, cell=2.5, **options):
        usual = super().strategy(batch, stages, cell=None, **options)
        if self.scorer is None:
            return usual.model_copy(update={"recycler": DensityPeaks()})
        stages = tuple(max(1, stage) for stage in usual.schedule.boundaries)
        schedule = Progressive(stages=stages, retention=usual.schedule.retention)
        return Strategy(scorer=self.scorer, schedule=schedule, recycler=DensityPeaks())


class RecyclingInside(Recycling):
    """From the first layers on."""

    scorer = PyramidDrop()


RUNTIME = [
    pruning.several_images,
    pruning.video,
    pruning.ragged_batch,
    pruning.batch_invariance,
    generating.beam_search,
    generating.conversation,
    restoring.clean_exit,
]


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("kind", [Recycling, RecyclingInside])
@pytest.mark.parametrize("check", RUNTIME, ids=lambda check: check.__name__)
def test_the_runtime_keeps_its_promises(check, kind, family):
    """The conformance kit's own checks: a scorer that knows everything before the LLM, and one that does not."""
    check(kind(CASES[family], "sdpa"))


@pytest.mark.parametrize("scorer", [SparseVLM(), RandomTokens()], ids=["inside", "before"])
def test_retention_1_is_upstream_bit_for_bit(scorer):
    own = subject("onevision")
    batch = own.batch(*own.ragged())
    expected = generate(own, batch.inputs, STEPS)
    keep_all = Strategy(
        scorer=scorer, schedule=Progressive(stages=(1, 3), retention=(1.0, 1.0)), recycler=DensityPeaks()
    )
    with own.prune(keep_all) as session:
        output = generate(own, batch.inputs, STEPS)
    assert all(map(torch.equal, output.logits, expected.logits))
    assert all(plan.is_identity and not plan.later for plan in session.plan)


@pytest.mark.parametrize("scorer", [SparseVLM(), RandomTokens()], ids=["inside", "before"])
def test_a_search_prunes_as_prune_does(scorer):
    own = subject("onevision")
    batch = own.batch(own.image(1))
    strategy = Strategy(scorer=scorer, schedule=STAGES, recycler=DensityPeaks())
    backbone = own.family.backbone(own.model)
    with torch.no_grad():
        full = backbone(**batch.inputs).last_hidden_state[0, -1]
        with own.prune(strategy) as session:
            pruned = backbone(**batch.inputs).last_hidden_state[0, -1]
    found = TransformersAdapter(own.family).evaluator(own.model, [batch.inputs]).evaluate(strategy)
    assert abs(found.score - float(torch.cosine_similarity(pruned, full, dim=0))) < 1e-6
    assert found.retention == pytest.approx(session.report.retention)


def test_a_stage_that_prunes_nothing_merges_nothing():
    own = subject("onevision")
    schedule = Progressive(stages=(1, 2, 3), retention=(1.0, 0.6, 1.0))
    with own.prune(Strategy(scorer=SparseVLM(), schedule=schedule, recycler=DensityPeaks())) as session:
        batch = own.batch(own.image(1))
        output = generate(own, batch.inputs, STEPS)
    (plan,) = session.plan
    assert plan.later.keys() == {1}
    require_oracle_logits(Oracle(own, batch, [plan]), output, "one stage of three")


@pytest.mark.parametrize("scorer", [SparseVLM(), RandomTokens()], ids=["inside", "before"])
def test_deciding_and_merging_wait_for_nothing(scorer, monkeypatch):
    own, calls = subject("onevision"), []

    def refusing_to_wait(function):
        def watched(*arguments):
            calls.append(function.__name__)
            with NoWaiting():
                return function(*arguments)

        return watched

    monkeypatch.setattr(StagePlan, "decide", refusing_to_wait(StagePlan.decide))
    monkeypatch.setattr(staged_layers, "merge_rows", refusing_to_wait(staged_layers.merge_rows))
    with own.prune(Strategy(scorer=scorer, schedule=STAGES, recycler=DensityPeaks())), torch.no_grad():
        own.model(**own.batch(*own.ragged()).inputs)
    assert calls == ["decide", "merge_rows"] * 3


def test_a_plan_is_drawn_with_what_was_merged_at_any_stage():
    own = subject("onevision")
    with own.prune(Strategy(scorer=SparseVLM(), schedule=STAGES, recycler=DensityPeaks())) as session:
        generate(own, own.batch(own.image(1)).inputs, 1)
    (plan,) = session.plan
    merged = {token for merge in map(plan.merge_at, range(3)) for token in range(plan.tokens)
              if merge.anchor[token] not in (-1, token)}  # fmt: skip
    assert {token for token, fate in enumerate(token_fates(plan)) if fate == 2} == merged
    assert {token for token, fate in enumerate(plan.fates()) if fate == "merged"} == merged


@pytest.mark.parametrize("family", CASES)
def test_ranks_are_those_of_upstreams_weights(family):
    own, eager = subject(family), subject(family, "eager")
    batch = own.batch(own.several())
    found = TransformersAdapter(own.family).received_attention(own.model, [batch.inputs], ranks=True)
    with ExitStack() as stack, torch.no_grad():
        layers = eager.family.decoder(eager.model).layers
        calls = [stack.enter_context(recorded_weights(layer.self_attn)) for layer in layers]
        eager.model(**batch.inputs)
    entered = embed(own, batch).embeddings[0].detach().double().numpy()
    images = {int(row) for placed in batch.placed for row in placed.rows}
    for placed, unit in zip(batch.placed, found, strict=True):
        visual = placed.rows[~unit.structural]
        texts = [row for row in range(len(entered)) if row > placed.rows[-1] and row not in images]
        chosen = raters(entered, visual, texts)
        for (weights,), found_rank in zip(calls, unit.ranks, strict=True):
            expected, _ = rank_of(weights[0].double().numpy().mean(axis=0)[np.ix_(chosen, visual)])
            assert found_rank == expected
            assert 0 < expected <= len(chosen)


def test_a_fitted_schedule_meets_its_budget_with_recycled_tokens():
    own = subject("onevision")
    batch = own.batch(own.image(1))
    adapter = TransformersAdapter(own.family)
    seen = adapter.received_attention(own.model, [batch.inputs], ranks=True)
    scorer = AdaptiveSparseVLM()
    schedule = scorer.fit_schedule(seen, 0.6)
    assert schedule.average_retention(own.num_layers) == pytest.approx(0.6, abs=1e-12)
    with own.prune(Strategy(scorer=scorer, schedule=schedule, recycler=scorer.usual_recycler)) as session:
        output = generate(own, batch.inputs, STEPS)
        made = session.plan
    assert abs(session.report.retention - 0.6) * made[0].tokens <= 0.5
    require_oracle_logits(Oracle(own, batch, made), output, "fitted")
    assert adapter.received_attention(own.model, [batch.inputs])[0].ranks is None


def test_models_that_offer_no_hidden_states_are_refused(monkeypatch):
    monkeypatch.setattr(
        "vflowopt_hf.pruning.requirements.OFFERED", frozenset({"attention", "features", "decoder-attention"})
    )
    own = subject("onevision")
    with (
        pytest.raises(StrategyError, match="'density-peaks' needs hidden-states"),
        own.prune(Strategy(scorer=SparseVLM(), schedule=STAGES, recycler=DensityPeaks())),
    ):
        pass
