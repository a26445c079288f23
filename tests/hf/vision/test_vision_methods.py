"""Methods that score before the LLM on tiny models: what they look at is upstream's, what they keep the oracle's."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from oracles import vision_methods as oracle
from support.cases import idefics3, internvl, llava, llava_next, llava_next_video, llava_onevision, qwen2_5_vl, qwen2_vl
from vflowopt import Progressive, Strategy, prune
from vflowopt.arrays import to_numpy
from vflowopt.components.recycle import GridRecycler
from vflowopt.errors import StrategyError
from vflowopt.methods.divprune import DivPrune
from vflowopt.methods.fastervlm import FasterVLM
from vflowopt.methods.visionzip import ContextualTokens, VisionZip
from vflowopt.plugins import find_adapter
from vflowopt_hf.testing.generation import generate, require_oracle_logits
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.probe import attention_function, embed, recorded_weights
from vflowopt_hf.testing.subject import Subject

CLASS_TOKEN = {"llava": llava, "llava-next": llava_next, "llava-next-video": llava_next_video, "internvl": internvl}
PATCHES_ONLY = {
    "llava-onevision": llava_onevision,
    "qwen2-vl": qwen2_vl,
    "qwen2.5-vl": qwen2_5_vl,
    "idefics3": idefics3,
}
SUBJECTS = {name: Subject(module.CASE, "eager") for name, module in {**CLASS_TOKEN, **PATCHES_ONLY}.items()}
each_with_class_token = pytest.mark.parametrize("name", CLASS_TOKEN)
each = pytest.mark.parametrize("name", SUBJECTS)


def batch_of(subject):
    """Several images in a prompt, and an image in another."""
    return subject.batch(subject.several(), subject.image(-1))


def per_unit(recorded, batch):
    """What was recorded per call and view, cut into the units of a batch."""
    views = [view for call in recorded for view in call]
    return [views[entry.unit.views] for entry in batch.placed]


@each_with_class_token
def test_class_attention_is_the_first_row_of_upstreams_eager_weights(name):
    subject = SUBJECTS[name]
    batch = batch_of(subject)
    with recorded_weights(subject.family.vision_attention(subject.model)) as weights, torch.no_grad():
        contexts = embed(subject, batch).contexts
    for views, context in zip(per_unit(weights, batch), contexts, strict=True):
        expected = torch.stack([view[:, 0, 1:].double().mean(dim=0) for view in views])
        assert context.class_attention.shape == expected.shape
        assert context.class_attention.dtype == torch.float32
        torch.testing.assert_close(context.class_attention.double(), expected, rtol=1e-5, atol=1e-7)
        assert expected.std(dim=1).min() > 1e-3  # far from uniform: the comparison means something


@pytest.mark.parametrize("name", [name for name in SUBJECTS if not name.startswith("qwen")])
def test_keys_are_what_upstreams_attention_function_gets(name):
    subject = SUBJECTS[name]
    batch, first, seen = batch_of(subject), subject.family.class_tokens, []

    def note(module, query, key, value, mask, scaling, **kwargs):
        seen.append(key.detach())
        weights = (query @ key.transpose(2, 3) * scaling).softmax(dim=-1)
        return (weights @ value).transpose(1, 2), weights

    with attention_function([subject.family.vision_attention(subject.model)], note), torch.no_grad():
        contexts = embed(subject, batch).contexts
    for views, context in zip(per_unit(seen, batch), contexts, strict=True):
        expected = torch.stack([view[:, first:].double().mean(dim=0) for view in views])
        torch.testing.assert_close(context.keys.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["llava", "llava-next", "llava-onevision"])
def test_keys_are_those_of_the_projection(name):
    """Without rotary embedding and norm, they are what the key projection returns."""
    subject = SUBJECTS[name]
    module, batch, seen = subject.family.vision_attention(subject.model), batch_of(subject), []
    handle = module.k_proj.register_forward_hook(lambda _module, _args, out: seen.append(out.detach()))
    with torch.no_grad():
        contexts = embed(subject, batch).contexts
    handle.remove()
    for views, context in zip(per_unit(seen, batch), contexts, strict=True):
        heads = torch.stack(views)[:, subject.family.class_tokens :].unflatten(-1, (module.num_heads, -1))
        torch.testing.assert_close(context.keys, heads.mean(dim=2), rtol=1e-5, atol=1e-6)


@each
def test_features_are_the_rows_that_enter_the_decoder(name):
    subject = SUBJECTS[name]
    batch = batch_of(subject)
    with torch.no_grad():
        seen = embed(subject, batch)
    assert torch.equal(torch.cat([context.features for context in seen.contexts]), seen.features(batch.placed))


def strategy(batch, scorer, recycler=None):
    """One stage that leaves half of what is not structural, or more of images with fewer structural tokens."""
    share = max(float(entry.unit.layout.structural.mean()) for entry in batch.placed)
    schedule = Progressive(stages=(0,), retention=(share + (1 - share) * 0.5,))
    return Strategy(scorer=scorer, schedule=schedule, recycler=recycler)


def run(subject, batch, chosen):
    """Host plans of a generation, whose logits are those of upstream with the pruned tokens masked out."""
    with subject.prune(chosen) as pruning:
        output = generate(subject, batch.inputs, 3)
        plans = pruning.plan
    require_oracle_logits(Oracle(subject, batch, plans), output, chosen.scorer.component_name())
    return plans


def to_tokens(entry, patch_map):
    """Float64 [N] through the geometry that the conformance kit proves."""
    return entry.unit.to_tokens(patch_map.double()).numpy()


def importances(subject, batch, *, class_token):
    """Of each unit, from upstream's eager weights: float64 [N]."""
    first = subject.family.class_tokens
    with recorded_weights(subject.family.vision_attention(subject.model)) as weights, torch.no_grad():
        embed(subject, batch)
    for entry, views in zip(batch.placed, per_unit(weights, batch), strict=True):
        mean = torch.stack(views).double().mean(dim=1)
        yield to_tokens(entry, mean[:, 0, 1:] if class_token else mean[:, first:, first:].mean(dim=1))


@each_with_class_token
def test_fastervlm_keeps_what_the_class_token_attends_to(name):
    subject = SUBJECTS[name]
    batch = batch_of(subject)
    plans = run(subject, batch, strategy(batch, FasterVLM()))
    expected = importances(subject, batch, class_token=True)
    for plan, importance in zip(plans, expected, strict=True):
        assert plan.counts[0] < plan.tokens
        assert set(plan.kept[0].tolist()) == oracle.kept(importance, plan.structural, plan.counts[0])


@pytest.mark.parametrize("name", ["llava-next", "llava-onevision", "qwen2-vl", "internvl"])
def test_divprune_keeps_the_most_diverse_embeddings(name):
    subject = SUBJECTS[name]
    batch = subject.batch(subject.image(1))
    (plan,) = run(subject, batch, strategy(batch, DivPrune()))
    with torch.no_grad():
        features = embed(subject, batch).features(batch.placed).double().numpy()
    tokens = np.flatnonzero(~plan.structural)
    chosen, margin = oracle.diverse(features[tokens], plan.counts[0])
    assert margin > 1e-6
    assert set(plan.kept[0].tolist()) == set(tokens[chosen].tolist())


@pytest.mark.parametrize("name", ["llava-next", "internvl", "llava-onevision", "qwen2-vl"])
def test_visionzip_merges_what_is_not_dominant(name):
    subject = SUBJECTS[name]
    batch, class_token = batch_of(subject), name in CLASS_TOKEN
    chosen = strategy(batch, VisionZip(source="class" if class_token else "mean"), ContextualTokens(contextual=0.3))
    plans = run(subject, batch, chosen)
    with torch.no_grad():
        contexts = embed(subject, batch).contexts
    expected = zip(batch.placed, contexts, importances(subject, batch, class_token=class_token), strict=True)
    for plan, (entry, context, importance) in zip(plans, expected, strict=True):
        patches = np.flatnonzero(~plan.structural)
        keys = np.stack([to_tokens(entry, component) for component in context.keys.unbind(dim=-1)], axis=1)
        merged = oracle.zipped(importance[patches], keys[patches], plan.counts[0], 0.3)
        assert merged.margin > 1e-6
        assert plan.kept[0].tolist() == patches[sorted(merged.retained)].tolist()
        assert plan.anchor[patches].tolist() == patches[merged.anchor].tolist()
        assert (plan.anchor[plan.structural] == -1).all()
        np.testing.assert_allclose(plan.weight[patches], merged.weight, rtol=1e-6)
        assert plan.recycled
        assert (np.bincount(plan.anchor[patches]) > 1).any()


def test_contextual_tokens_of_a_video_and_beside_another_scorer():
    subject = SUBJECTS["llava-onevision"]
    batch = subject.batch(subject.video())
    (plan,) = run(subject, batch, strategy(batch, DivPrune(), ContextualTokens()))
    assert plan.recycled
    assert "merged" in plan.fates()


def installed_on(model):
    """Hooks and the attention function of every module; upstream has some of its own."""
    return [
        (list(module._forward_pre_hooks), list(module._forward_hooks), id(getattr(module, "config", None)))
        for module in model.modules()
    ]


@pytest.mark.parametrize("scorer", [FasterVLM(), VisionZip()])
@pytest.mark.parametrize("name", PATCHES_ONLY)
def test_without_a_class_token_nothing_is_installed(name, scorer):
    subject = SUBJECTS[name]
    model, half = subject.model, Progressive(stages=(0,), retention=(0.5,))
    named, before = scorer.component_name(), installed_on(model)
    message = (
        rf"scorer '{named}' needs class-attention, which {subject.family.name} models do not offer; they offer "
        rf".*features.*: the vision tower has no class token; rank by the mean attention received instead"
    )
    with pytest.raises(StrategyError, match=message):
        subject.prune(Strategy(scorer=scorer, schedule=half))
    assert installed_on(model) == before


def test_a_recycler_that_needs_what_is_not_there():
    class Captioned(GridRecycler):
        @property
        def needs(self):
            return frozenset({"captions"})

    model = llava_onevision.CASE.model("sdpa")
    half = Progressive(stages=(0,), retention=(0.5,))
    chosen = Strategy(scorer=DivPrune(), schedule=half, recycler=Captioned(cell=2))
    with pytest.raises(StrategyError, match="recycler 'grid' needs captions, which llava-onevision models do not"):
        prune(model, chosen)


def test_the_search_objective_scores_them():
    """Samples are kept, features included: every evaluation is one pruned prefill."""
    subject = SUBJECTS["llava-next"]
    batch = subject.batch(subject.image(1))
    evaluator = find_adapter(subject.model).evaluator(subject.model, [batch.inputs])
    for scorer in (FasterVLM(), DivPrune(), VisionZip()):
        chosen = strategy(batch, scorer, scorer.usual_recycler)
        ours = evaluator.evaluate(chosen)
        assert ours.nonfinite == 0
        assert 0 < ours.retention < 1
        again, _ = evaluator.pruned_hidden(evaluator.samples[0], chosen)
        states = []
        decoder = subject.family.decoder(subject.model)
        handle = decoder.register_forward_hook(lambda _m, _a, out, seen=states: seen.append(out.last_hidden_state))
        with subject.prune(chosen), torch.no_grad():
            subject.model(**batch.inputs)
        handle.remove()
        assert torch.equal(again, states[0])


class NoWaiting(TorchDispatchMode):
    """Fails on operations whose result, or its shape, only the host can know by waiting for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["llava-next", "internvl"])
def test_scoring_and_merging_wait_for_no_device(name):
    subject = SUBJECTS[name]
    batch = subject.batch(subject.image(1))
    with torch.no_grad():
        (context,) = embed(subject, batch).contexts
    count = context.layout.tokens * 2 // 3
    with torch.no_grad(), NoWaiting():
        for scorer in (FasterVLM(), DivPrune(), VisionZip(), VisionZip(source="mean")):
            importance = scorer.score_retaining(context, count).importance
            merged = ContextualTokens().merge_unit(importance, context, count)
    assert int(merged.retained.sum()) == count
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        bool(merged.retained.any())


def test_half_precision_scores_in_float32():
    subject = Subject(llava_next.CASE, "sdpa")
    batch = subject.batch(subject.image(1))
    subject.model.to(torch.bfloat16)
    inputs = {name: value.bfloat16() if value.is_floating_point() else value for name, value in batch.inputs.items()}
    for scorer in (FasterVLM(), DivPrune(), VisionZip()):
        with subject.prune(strategy(batch, scorer, scorer.usual_recycler)) as pruning, torch.no_grad():
            logits = subject.model(**inputs).logits
        assert torch.isfinite(logits).all()
        assert to_numpy(pruning.plan[0].importance).dtype == np.float32
