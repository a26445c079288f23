"""Class attention of several vision layers: captured where a strategy asks, nowhere else; VTC-CLS on tiny models."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPVisionConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from support.cases import internvl, llava, llava_next, llava_onevision
from support.tiny import CROP, PATCH, SIDE
from vflowopt import Progressive, Strategy
from vflowopt.components.baselines import RandomTokens
from vflowopt.errors import StrategyError
from vflowopt.methods.divprune import DivPrune
from vflowopt.methods.fastervlm import FasterVLM
from vflowopt.methods.vtc_cls import VTCCLS
from vflowopt_hf.checkpoint.panel import QuestionPanel
from vflowopt_hf.family import statistics_of
from vflowopt_hf.feature_layer import layers_up_to
from vflowopt_hf.testing.probe import recorded_weights
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.vision.class_rows import ClassRowCapture, ClassRows

TOWER, DEPTH = 8, 7
"""Layers of the tower, and those up to the penultimate one, which is observed."""

COMBINE = {"sum": np.sum, "max": np.max, "min": np.min}
CASES = {"llava": (llava.CASE, llava.tiny_llava), "llava-next": (llava_next.CASE, llava_next.tiny_llava_next)}


def deep(build, attention):
    tower = CLIPVisionConfig(
        hidden_size=32,
        num_hidden_layers=TOWER,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=CROP,
        patch_size=PATCH,
        projection_dim=16,
    )
    return build(attention, vision_config=tower)


def make(name, attention):
    case, build = CASES[name]
    subject = Subject(case, attention)
    subject.model = deep(build, attention)  # instead of the case's, which has fewer layers
    return subject


SUBJECTS = {(name, attention): make(name, attention) for name in CASES for attention in ("eager", "sdpa")}


def batch_of(subject):
    """Several images in a prompt, and an image in another."""
    return subject.batch(subject.several(), subject.image(-1))


def strategy_of(scorer, retention=0.5):
    return Strategy(scorer=scorer, schedule=Progressive(stages=(0,), retention=(retention,)))


def observed():
    """One entry for each attention module that is observed now."""
    functions = [call for name, call in ALL_ATTENTION_FUNCTIONS.items() if name.startswith("vflowopt-observe")]
    return range(sum(call.users for call in functions))


def published(name, batch, layers, ensemble):
    """Importance of every image by the published rule, float64 [N], NaN where structural.

    From an independent forward of upstream's tower that returns its own weights, through upstream's own packing.
    """
    model = deep(CASES[name][1], "eager")
    config, pixels = model.config, batch.inputs["pixel_values"]
    if name == "llava":
        owned = [1] * len(pixels)
    else:
        sizes = batch.inputs["image_sizes"]
        owned = [image_size_to_num_patches(size, config.image_grid_pinpoints, CROP) for size in sizes]
        pixels = torch.cat([image[:views] for image, views in zip(pixels, owned, strict=True)])
    with torch.no_grad():
        weights = model.model.vision_tower(pixels, output_attentions=True).attentions
    assert len(weights) == TOWER
    rows = np.array([[view.double().numpy().mean(0)[0, 1:] for view in layer] for layer in weights])
    combined = COMBINE[ensemble](rows[DEPTH - layers : DEPTH], axis=0)  # [views, patches]
    start = 0
    for number, views in enumerate(owned):
        maps = combined[start : start + views]
        start += views
        if name == "llava":
            yield maps[0]
            continue
        packed, _ = model.model.pack_image_features(
            [torch.from_numpy(maps)[..., None]], sizes[number][None], "default", torch.full((1,), torch.nan).double()
        )
        yield packed[0][:, 0].numpy()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("depth", "layers", "ensemble"), [(0.3, 3, "sum"), (0.7, 5, "sum"), (1.0, 7, "max"), (0.3, 3, "min")]
)
def test_importance_is_the_published_rule_on_upstreams_weights(name, attention, depth, layers, ensemble):
    subject = SUBJECTS[name, attention]
    batch = batch_of(subject)
    scorer = VTCCLS(depth=depth, ensemble=ensemble)
    with subject.prune(strategy_of(scorer)) as pruning, torch.no_grad():
        subject.model(**batch.inputs)
        plans = pruning.plan
    expected = list(published(name, batch, layers, ensemble))
    assert len(plans) == len(expected) > 2
    for plan, importance in zip(plans, expected, strict=True):
        structural = np.isnan(importance)
        assert (structural == plan.structural).all()
        np.testing.assert_allclose(plan.importance[~structural], importance[~structural], rtol=5e-4)
        best = np.argsort(-np.nan_to_num(importance, nan=-np.inf), kind="stable")[: plan.counts[0]]
        assert set(plan.kept[0].tolist()) == set(best.tolist())
        one_layer = next(published(name, batch, 1, "sum")) if plan is plans[0] else None
        if one_layer is not None:  # the layers before the observed one matter
            alone = np.argsort(-np.nan_to_num(one_layer, nan=np.inf), kind="stable")[: plan.counts[0]]
            assert set(best.tolist()) != set(alone.tolist())


def test_a_tower_of_another_architecture():
    """A stack of another name, units of several crops, pixel shuffle."""
    subject = Subject(internvl.CASE, "eager")
    batch = batch_of(subject)
    layers = layers_up_to(subject.model.model, subject.family.vision_attention(subject.model))
    assert len(layers) > 2
    rows = []
    for module in layers[1:]:
        with recorded_weights(module) as weights, torch.no_grad():
            subject.model(**batch.inputs)
        rows.append([view[:, 0, 1:].double().mean(dim=0) for call in weights for view in call])
    with subject.prune(strategy_of(VTCCLS(depth=(len(layers) - 1) / len(layers)))) as pruning, torch.no_grad():
        subject.model(**batch.inputs)
        plans = pruning.plan
    for plan, entry in zip(plans, batch.placed, strict=True):
        combined = sum(torch.stack(layer[entry.unit.views]) for layer in rows)
        np.testing.assert_allclose(plan.importance, entry.unit.to_tokens(combined).numpy(), rtol=2e-5)


@pytest.mark.parametrize(
    ("scorer", "modules"),
    [(RandomTokens(), 1), (DivPrune(), 1), (FasterVLM(), 1), (VTCCLS(), 3), (VTCCLS(depth=1.0), DEPTH)],
    ids=lambda value: getattr(value, "name", None),
)
def test_only_layers_that_the_strategy_asks_for_are_observed(scorer, modules):
    subject = SUBJECTS["llava-next", "sdpa"]
    attentions = [layer.self_attn for layer in subject.model.model.vision_tower.encoder.layers]
    configs = [attention.config for attention in attentions]
    with subject.prune(strategy_of(scorer)):
        assert len(observed()) == modules
        changed = [now.config is not before for now, before in zip(attentions, configs, strict=True)]
    assert changed == [DEPTH - modules <= number < DEPTH for number in range(TOWER)]
    assert not observed()
    assert all(now.config is before for now, before in zip(attentions, configs, strict=True))


class Broken(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("where", ["vision", "decoder"])
def test_the_model_is_left_as_found_after_an_exception(where):
    subject = SUBJECTS["llava-next", "sdpa"]
    model, batch = subject.model, batch_of(subject)

    def state():
        modules = list(model.modules())
        hooks = [(list(module._forward_pre_hooks), list(module._forward_hooks)) for module in modules]
        attributes = [(sorted(module.__dict__), id(getattr(module, "config", None))) for module in modules]
        return hooks, attributes, set(ALL_ATTENTION_FUNCTIONS)

    def fail(*_):
        raise Broken

    places = {"vision": model.model.vision_tower.encoder.layers[5], "decoder": model.model.language_model.layers[1]}
    with torch.no_grad():
        model(**batch.inputs)  # upstream puts hooks of its own on a tower when it first runs
        with places[where].register_forward_pre_hook(fail):
            before = state()
            with pytest.raises(Broken), subject.prune(strategy_of(VTCCLS())):
                model(**batch.inputs)
            assert state() == before


def test_the_tower_computes_the_same_while_it_is_observed():
    subject = SUBJECTS["llava-next", "sdpa"]
    pixels = batch_of(subject).inputs["pixel_values"][0]
    with torch.no_grad():
        before = subject.model.model.vision_tower(pixels).last_hidden_state
        with subject.prune(strategy_of(VTCCLS(depth=1.0))):
            during = subject.model.model.vision_tower(pixels).last_hidden_state
    assert torch.equal(before, during)


@pytest.mark.parametrize("case", [llava_onevision.CASE], ids=["siglip"])
def test_without_a_class_token_it_is_refused_before_anything_is_installed(case):
    subject = Subject(case, "sdpa")
    message = (
        "scorer 'vtc-cls' needs class-attention, which llava-onevision models do not offer; they offer .*: the vision "
        "tower has no class token; rank by the mean attention received instead"
    )
    with pytest.raises(StrategyError, match=message):
        subject.prune(strategy_of(VTCCLS()))
    assert not observed()
    batch = subject.batch(subject.image(0))
    evaluator = subject.adapter.evaluator(subject.model, [batch.inputs])
    with pytest.raises(StrategyError, match="the vision tower has no class token; rank by the mean attention"):
        evaluator.evaluate(strategy_of(VTCCLS()))


def test_the_search_objective_knows_all_layers_and_holds_rows_only():
    subject = SUBJECTS["llava-next", "sdpa"]
    batch = subject.batch(subject.image(1))
    evaluator = subject.adapter.evaluator(subject.model, [batch.inputs])
    (unit,) = evaluator.samples[0].prefill.units
    rows = unit.context.class_rows
    assert rows.depth == DEPTH
    assert len(rows.earlier) == DEPTH - 1
    for layer in rows.earlier:
        assert all(row.shape == (SIDE * SIDE,) for row in layer)
        storages = {row.untyped_storage().data_ptr(): row.untyped_storage().nbytes() for row in layer}
        assert sum(storages.values()) <= 4 * len(layer) * (SIDE * SIDE + 1)
    for scorer in (VTCCLS(), VTCCLS(depth=1.0)):
        chosen, states = strategy_of(scorer), []
        hidden, _ = evaluator.pruned_hidden(evaluator.samples[0], chosen)
        decoder = subject.family.decoder(subject.model)
        handle = decoder.register_forward_hook(lambda _m, _a, out, seen=states: seen.append(out.last_hidden_state))
        with subject.prune(chosen), torch.no_grad():
            subject.model(**batch.inputs)
        handle.remove()
        assert torch.equal(hidden, states[0])


@pytest.mark.parametrize("keep", [True, False])
def test_a_panel_answers_as_generate_does(keep):
    subject = SUBJECTS["llava-next", "sdpa"]
    model, batch, chosen = subject.model, subject.batch(subject.several()), strategy_of(VTCCLS(depth=0.6))

    def answer(inputs, length):
        return str(model.generate(**inputs, max_new_tokens=length, do_sample=False).tolist())

    family = subject.adapter.family
    panel = QuestionPanel(family, model, statistics_of(family, None), answer, [batch.inputs], 3, keep=keep)
    told = panel.answer(0, chosen)
    with subject.prune(chosen) as pruning:
        assert told.text == answer(batch.inputs, 3)
        assert told.units == pruning.report.units


class NoWaiting(TorchDispatchMode):
    """Fails on operations whose result, or its shape, only the host can know by waiting for the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **(kwargs or {}))


def test_scoring_waits_for_no_device():
    subject = SUBJECTS["llava-next", "sdpa"]
    batch = subject.batch(subject.image(1))
    (unit,) = subject.adapter.evaluator(subject.model, [batch.inputs]).samples[0].prefill.units
    with torch.no_grad(), NoWaiting():
        importance = VTCCLS().score_retaining(unit.context, 20).importance
    assert importance.shape == (unit.context.layout.tokens,)


class Greedy(VTCCLS):
    """Reads more layers than it tells."""

    def class_attention_layers(self, depth):
        return 2

    def score(self, context):
        assert context.vision_depth == DEPTH
        context.class_attentions(3)


def test_a_scorer_that_reads_more_layers_than_it_tells():
    subject = SUBJECTS["llava", "sdpa"]
    batch = subject.batch(subject.image(0))
    with (
        pytest.raises(StrategyError, match="class attention of 3 vision layers is read, but 2 of 7 were captured"),
        subject.prune(strategy_of(Greedy())),
        torch.no_grad(),
    ):
        subject.model(**batch.inputs)


def test_packed_views_and_reordered_patches():
    """Two views of 3 and 4 patches, each with its class token, in one sequence."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, 9, 4, generator=generator) for _ in range(2))
    capture = ClassRowCapture(depth=2, layers=1, class_tokens=1)
    bounds = torch.tensor([0, 4, 9], dtype=torch.int32)
    capture.note(0, query, key, key, 0.5, None, {"cu_seq_lens_q": bounds})  # nobody records
    with capture.recording() as rows:
        capture.note(0, query, key, key, 0.5, None, {"cu_seq_lens_q": bounds})
    expected = []
    for first, last in ((0, 4), (4, 9)):
        scores = (query[0, :, first].double() * 0.5)[:, None] @ key[0, :, first:last].double().transpose(1, 2)
        expected.append(scores.softmax(dim=-1).mean(dim=0)[0, 1:])
    assert [len(row) for row in rows[0]] == [3, 4]
    for row, wanted in zip(rows[0], expected, strict=True):
        torch.testing.assert_close(row.double(), wanted, rtol=1e-5, atol=1e-7)
    order, own = torch.tensor([2, 0, 1]), torch.tensor([[0.1, 0.2, 0.3]])
    stacked = ClassRows(2, (tuple(rows[0]),)).views(slice(0, 1), order).up_to(own, 2)
    assert torch.equal(stacked[1], own)
    assert torch.equal(stacked[0, 0], rows[0][0][order])


def test_layers_up_to():
    def layer():
        return nn.ModuleDict({"attention": nn.Linear(1, 1), "norm": nn.LayerNorm(1)})

    another = nn.ModuleDict({"attention": nn.Conv1d(1, 1, 1)})
    stack = nn.ModuleList([layer(), another, nn.ModuleDict(), layer(), layer()])
    root, alone = nn.ModuleDict({"tower": nn.ModuleDict({"layers": stack})}), nn.Linear(1, 1)
    found = layers_up_to(root, stack[3]["attention"])
    assert [id(module) for module in found] == [id(stack[0]["attention"]), id(stack[3]["attention"])]
    assert layers_up_to(nn.ModuleDict({"attention": alone}), alone) == (alone,)
    assert layers_up_to(root, alone) == (alone,)
