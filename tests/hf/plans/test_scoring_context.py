"""What scorers are offered before the LLM is what upstream computes: the prompt's text, and what stands out."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from oracles import greedy as oracle
from support.cases import gemma3, internvl, llava_next, llava_onevision, qwen2_vl
from vflowopt import Progressive, Strategy
from vflowopt.components import Score, Scorer
from vflowopt.methods import EVS, LRCP, MMR, SCOPE, CDPruner, FlashVID, SpatiotemporalTrees, VidCom2, VisPruner
from vflowopt.methods.scope import _chosen
from vflowopt.plugins import find_adapter
from vflowopt_hf.pruning.requirements import check_fits
from vflowopt_hf.testing.generation import generate, require_oracle_logits
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.probe import embed, recorded_weights
from vflowopt_hf.testing.subject import Subject

CASES = {
    "onevision": llava_onevision.CASE,
    "next": llava_next.CASE,
    "qwen2-vl": qwen2_vl.CASE,
    "gemma3": gemma3.CASE,
    "internvl": internvl.CASE,
}
each = pytest.mark.parametrize("family", CASES)


@functools.cache
def subject(family, attention="sdpa"):
    return Subject(CASES[family], attention)


def batch_of(own):
    """Several images in a prompt, and an image in another, shorter one."""
    return own.batch(own.several(), own.image(-1))


def expected_texts(batch, placed, own):
    """Rows of the prompt's text after a unit, by a loop."""
    visual = {int(row) for entry in batch.placed if entry.sample == placed.sample for row in entry.rows}
    there = [row for row, seen in enumerate(batch.inputs["attention_mask"][placed.sample].tolist()) if seen]
    after = [row for row in there if row > placed.rows[-1] and row not in visual]
    return after or there[-1:]


@each
def test_text_is_what_enters_the_decoder_after_the_unit(family):
    own = subject(family)
    batch = batch_of(own)
    with torch.no_grad():
        seen = embed(own, batch)
    for placed, context in zip(batch.placed, seen.contexts, strict=True):
        rows = expected_texts(batch, placed, own)
        assert context.text.dtype == torch.float32
        assert torch.equal(context.text, seen.embeddings[placed.sample, rows].float())
    assert len({len(context.text) for context in seen.contexts}) > 1  # an image between two has more text after it


@each
def test_saliency_is_that_of_the_class_token_or_the_mean(family):
    own = subject(family, "eager")
    batch, first = batch_of(own), own.family.class_tokens
    with recorded_weights(own.family.vision_attention(own.model)) as weights, torch.no_grad():
        contexts = embed(own, batch).contexts
    views = [view for call in weights for view in call]
    for placed, context in zip(batch.placed, contexts, strict=True):
        mean = torch.stack(views[placed.unit.views]).double().mean(dim=1)
        expected = mean[:, 0, 1:] if first else mean.mean(dim=1)
        torch.testing.assert_close(context.saliency.double(), expected, rtol=1e-4, atol=1e-7)


class TextLength(Scorer):
    """Keeps what text it was shown."""

    name: str = "text-length"
    seen: Any = None

    @property
    def needs(self):
        return frozenset({"text"})

    def score(self, context):
        self.seen.append(context.text.clone())
        return Score(context.place(np.arange(context.layout.tokens, dtype=np.float32)), {})


def test_drafts_of_an_answer_are_no_text_of_the_prompt():
    own = subject("onevision")
    batch, scorer = own.batch(own.image(1)), TextLength(seen=[])
    chosen = Strategy(scorer=scorer, schedule=Progressive(stages=(0,), retention=(0.5,)))
    answer = torch.tensor([[5, 6, 7]])
    longer = {
        **batch.inputs,
        "input_ids": torch.cat([batch.inputs["input_ids"], answer], dim=1),
        "attention_mask": torch.cat([batch.inputs["attention_mask"], torch.ones_like(answer)], dim=1),
    }
    with own.prune(chosen), torch.no_grad():
        own.model(**batch.inputs)
        own.model(**longer, logits_to_keep=4)
        own.model(**longer)
    prompt, drafted, whole = scorer.seen
    assert torch.equal(prompt, drafted)
    assert torch.equal(prompt, whole[:-3])


def test_beams_share_the_text_of_their_sample_and_the_search_keeps_it():
    own = subject("next")
    batch, scorer = own.batch(own.image(1)), TextLength(seen=[])
    chosen = Strategy(scorer=scorer, schedule=Progressive(stages=(0,), retention=(0.9,)))
    with own.prune(chosen), torch.no_grad():
        own.model.generate(**batch.inputs, num_beams=2, max_new_tokens=2)
    find_adapter(own.model).evaluator(own.model, [batch.inputs]).evaluate(chosen)
    (first, kept) = scorer.seen
    with torch.no_grad():
        (context,) = embed(own, batch).contexts
    assert torch.equal(first, context.text)
    assert torch.equal(kept, context.text)


def chosen_for(batch, scorer):
    share = max(float(entry.unit.layout.structural.mean()) for entry in batch.placed)
    return Strategy(scorer=scorer, schedule=Progressive(stages=(0,), retention=(share + (1 - share) * 0.4,)))


@each
@pytest.mark.parametrize("scorer", [MMR(), SCOPE()])
def test_what_is_kept_is_the_oracles_and_so_are_the_logits(family, scorer):
    own = subject(family)
    batch = own.batch(own.image(1))
    with own.prune(chosen_for(batch, scorer)) as pruning:
        output = generate(own, batch.inputs, 3)
        (plan,) = pruning.plan
    require_oracle_logits(Oracle(own, batch, [plan]), output, scorer.component_name())
    with torch.no_grad():
        (context,) = embed(own, batch).contexts
    tokens = np.flatnonzero(~plan.structural)
    attention, features = context.to_tokens(context.saliency).numpy()[tokens], context.features.numpy()[tokens]
    count = plan.counts[0]
    if isinstance(scorer, MMR):
        order, margin = oracle.relevant(attention, features, scorer.relevance, count)
    else:
        order, margin = oracle.covering(attention, features, scorer.alpha, count)
    assert margin > 1e-7
    assert set(plan.kept[0].tolist()) == set(tokens[order].tolist())


@pytest.mark.parametrize("scorer", [VisPruner(), LRCP(), CDPruner(), EVS(), VidCom2(), FlashVID()])
@pytest.mark.parametrize("family", ["onevision", "qwen2-vl"])
def test_a_video_under_every_method_has_the_oracles_logits(family, scorer):
    own = subject(family)
    batch = own.batch(own.video())
    with own.prune(chosen_for(batch, scorer)) as pruning:
        output = generate(own, batch.inputs, 3)
        (plan,) = pruning.plan
    require_oracle_logits(Oracle(own, batch, [plan]), output, scorer.component_name())
    with torch.no_grad():
        (context,) = embed(own, batch).contexts
        importance = scorer.score_retaining(context, plan.counts[0]).importance.numpy()
    tokens = np.flatnonzero(~plan.structural)
    free = plan.counts[0]
    best = tokens[np.argsort(-importance[tokens], kind="stable")[:free]]
    assert set(plan.kept[0].tolist()) == set(best.tolist())
    assert 0 < len(best) < len(tokens)


class NoWaiting(TorchDispatchMode):
    """Fails on operations whose result, or its shape, only the host can know by waiting for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **(kwargs or {}))


def test_choosing_waits_for_no_device():
    own = subject("next")
    batch = own.batch(own.image(1))
    with torch.no_grad():
        (context,) = embed(own, batch).contexts
    count = context.layout.tokens // 2
    with torch.no_grad(), NoWaiting():
        importance = MMR().score_retaining(context, count).importance
        like = context.features @ context.features.T
        for scorer in (VisPruner(), CDPruner(), EVS(), VidCom2(), FlashVID()):
            scorer.score_retaining(context, count)
        order = _chosen(context.features[:, 0].abs(), like, count)  # what runs on other devices than a CPU
    assert importance.dtype == torch.float32
    assert sorted(order.tolist()) == list(range(context.layout.tokens))


@pytest.mark.parametrize("family", ["onevision", "qwen2-vl"])
def test_a_video_with_merged_tokens_has_the_oracles_logits(family):
    own = subject(family)
    batch = own.batch(own.video())
    scorer, merging = FlashVID(segments=1), SpatiotemporalTrees(segments=1, similarity=-1, selected=0.5)
    strategy = chosen_for(batch, scorer).model_copy(update={"recycler": merging})
    with own.prune(strategy) as pruning:
        output = generate(own, batch.inputs, 3)
        (plan,) = pruning.plan
    require_oracle_logits(Oracle(own, batch, [plan]), output, "flashvid")
    used = np.flatnonzero(plan.anchor >= 0)
    assert (plan.anchor[used] != used).any()


def test_merging_over_time_waits_for_no_device():
    own = subject("qwen2-vl")
    batch = own.batch(own.video())
    with torch.no_grad():
        (context,) = embed(own, batch).contexts
    count = context.layout.tokens // 2
    with torch.no_grad(), NoWaiting():
        merged = SpatiotemporalTrees(segments=1).merge_unit(context.features[:, 0], context, count)
    assert int(merged.retained.sum()) == count


def test_text_is_offered_by_every_family():
    scorer = TextLength(seen=[])
    for family in CASES:
        own = subject(family)
        check_fits(own.family, own.model, Strategy(scorer=scorer, schedule=Progressive(stages=(0,), retention=(0.5,))))


class Sharing(Progressive):
    """Gives three tokens of the image with the least entropy to the one with the most."""

    name: str = "sharing"

    @property
    def needs(self):
        return frozenset({"entropy"})

    def unit_counts(self, units):
        taken = [self.counts(unit.layout.tokens)[0] for unit in units]
        worth = [float(unit.entropy.mean()) for unit in units]
        taken[worth.index(min(worth))] -= 3
        taken[worth.index(max(worth))] += 3
        return [(count,) for count in taken]


def test_a_schedule_may_share_tokens_among_the_images_of_a_prompt():
    own = subject("qwen2-vl")
    batch = own.batch(own.several(), own.image(-1))
    schedule = Sharing(stages=(0,), retention=(0.5,))
    with own.prune(Strategy(scorer=MMR(), schedule=schedule)) as pruning:
        output = generate(own, batch.inputs, 3)
        plans = pruning.plan
    require_oracle_logits(Oracle(own, batch, plans), output, "shared")
    samples = {entry.sample for entry in batch.placed}
    for sample in samples:
        own_plans = [plan for plan, entry in zip(plans, batch.placed, strict=True) if entry.sample == sample]
        usual = [schedule.counts(plan.tokens)[0] for plan in own_plans]
        assert sum(plan.counts[0] for plan in own_plans) == sum(usual)
    assert [plan.counts[0] for plan in plans] != [schedule.counts(plan.tokens)[0] for plan in plans]
