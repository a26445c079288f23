"""Attention of any vision layer, and the values of the observed one, are upstream's; only who asks gets them."""

import functools
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch

from oracles import newer_methods as oracle
from support.cases import gemma3, internvl, llava, llava_next, llava_onevision, qwen2_5_vl, qwen2_vl
from vflowopt import Progressive, Strategy
from vflowopt.components import Score, Scorer
from vflowopt.errors import StrategyError, UnsupportedOperationError
from vflowopt.methods import HiPrune
from vflowopt_hf.testing.generation import generate, require_oracle_logits
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.probe import attention_function, recorded_weights
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.vision.class_rows import vision_layers

CASES = {
    "llava": llava.CASE,
    "next": llava_next.CASE,
    "onevision": llava_onevision.CASE,
    "qwen2-vl": qwen2_vl.CASE,
    "gemma3": gemma3.CASE,
    "internvl": internvl.CASE,
}
each = pytest.mark.parametrize("family", CASES)
HALF = Progressive(stages=(0,), retention=(0.9,))


@functools.cache
def subject(family, attention="eager"):
    return Subject(CASES[family], attention)


class Reader(Scorer):
    """Notes what it reads."""

    name: str = "reader"
    seen: Any = None
    layers: Any = None

    @property
    def needs(self):
        return frozenset({"layer-attention", "values"})

    def attention_layers(self, depth):
        return frozenset(range(depth) if self.layers is None else self.layers)

    def score(self, context):
        sources = [context.layer_attention(layer) for layer in range(context.vision_depth)]
        self.seen.append(([source.received() for source in sources], context.values))
        return Score(context.place(np.arange(context.layout.tokens, dtype=np.float32)), {})


@each
def test_every_layer_is_upstreams(family):
    own = subject(family)
    batch, reader = own.batch(own.several(), own.image(-1)), Reader(seen=[])
    layers, first = vision_layers(own.family, own.model), own.family.class_tokens
    assert layers[-1] is own.family.vision_attention(own.model)
    assert len(layers) > 1
    with ExitStack() as stack, torch.no_grad():
        weights = [stack.enter_context(recorded_weights(layer)) for layer in layers]
        stack.enter_context(own.prune(Strategy(scorer=reader, schedule=HALF)))
        own.model(**batch.inputs)
    for (received, _), placed in zip(reader.seen, batch.placed, strict=True):
        for source, calls in zip(received, weights, strict=True):
            views = torch.stack([view for call in calls for view in call][placed.unit.views])
            order = placed.unit.patch_order
            mean = views.double().mean(dim=1)[:, first:, first:]
            mean = mean if order is None else mean[:, order][:, :, order]
            torch.testing.assert_close(source.double(), mean.sum(dim=1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", [family for family in CASES if family != "qwen2-vl"])  # packed views have a mask
def test_values_are_what_upstreams_attention_function_gets(family):
    own = subject(family)
    batch, reader, seen = own.batch(own.several(), own.image(-1)), Reader(seen=[]), []

    def note(module, query, key, value, mask, scaling, **kwargs):
        seen.append(value.detach())
        weights = (query @ key.transpose(2, 3) * scaling).softmax(dim=-1)
        return (weights @ value).transpose(1, 2), weights

    observed = [own.family.vision_attention(own.model)]
    pruned = Strategy(scorer=reader, schedule=HALF)
    with attention_function(observed, note), torch.no_grad(), own.prune(pruned):
        own.model(**batch.inputs)
    views = [view for call in seen for view in call]
    for (_, values), placed in zip(reader.seen, batch.placed, strict=True):
        expected = torch.stack(views[placed.unit.views])[:, :, own.family.class_tokens :]
        expected = torch.cat(expected.unbind(dim=1), dim=-1)  # heads side by side
        torch.testing.assert_close(values, expected.float(), rtol=1e-6, atol=0)


def test_a_layer_that_does_not_exist_is_refused_before_any_work():
    own = subject("llava")
    before = [id(module.config) for module in vision_layers(own.family, own.model)]
    with (
        pytest.raises(StrategyError, match="attention of vision layer 99 is needed, but llava models have layers 0 to"),
        own.prune(Strategy(scorer=Reader(seen=[], layers=[99]), schedule=HALF)),
    ):
        pass
    assert [id(module.config) for module in vision_layers(own.family, own.model)] == before


def test_a_layer_that_was_not_asked_for_is_not_there():
    own = subject("llava")
    batch = own.batch(own.image(0))
    with (
        pytest.raises(StrategyError, match=r"attention of vision layer 0 of \d is read, but they were not captured"),
        own.prune(Strategy(scorer=Reader(seen=[], layers=[]), schedule=HALF)),
        torch.no_grad(),
    ):
        own.model(**batch.inputs)


def test_layers_that_attend_within_windows_are_refused():
    own = Subject(qwen2_5_vl.CASE, "sdpa")
    batch = own.batch(own.image(0))
    with (
        pytest.raises(UnsupportedOperationError, match=r"vision layer \d attends within windows"),
        own.prune(Strategy(scorer=Reader(seen=[]), schedule=HALF)),
        torch.no_grad(),
    ):
        own.model(**batch.inputs)


@each
def test_hiprune_keeps_the_oracles_tokens_and_has_its_logits(family):
    own, scorer = subject(family), HiPrune(alpha=0.6)
    batch, first = own.batch(own.image(1)), own.family.class_tokens
    share = float(batch.placed[0].unit.layout.structural.mean())
    layers = vision_layers(own.family, own.model)
    middle = scorer.middle(len(layers))
    chosen = Strategy(scorer=scorer, schedule=Progressive(stages=(0,), retention=(share + (1 - share) * 0.5,)))
    with ExitStack() as stack, torch.no_grad():
        weights = [stack.enter_context(recorded_weights(layer)) for layer in (layers[middle], layers[-1])]
        pruning = stack.enter_context(own.prune(chosen))
        own.model(**batch.inputs)
        (plan,) = pruning.plan
    with own.prune(chosen) as pruning:
        output = generate(own, batch.inputs, 3)
        assert (pruning.plan[0].kept[0] == plan.kept[0]).all()
    require_oracle_logits(Oracle(own, batch, [plan]), output, "hiprune")
    tokens, maps = np.flatnonzero(~plan.structural), []
    for calls in weights:
        mean = torch.stack([view for call in calls for view in call]).double().mean(dim=1)[:, first:, first:]
        order = batch.placed[0].unit.patch_order
        mean = mean if order is None else mean[:, order][:, :, order]
        maps.append(batch.placed[0].unit.to_tokens(mean.sum(dim=1)).numpy()[tokens])
    expected = oracle.hierarchical(*maps, plan.position[tokens].tolist(), plan.counts[0], scorer.alpha)
    kept = {token for token in plan.kept[0].tolist() if not plan.structural[token]}
    assert kept <= {int(tokens[token]) for token in expected}
    assert len(kept) < len(tokens)


def test_searches_say_that_layers_are_not_kept():
    own = subject("llava")
    batch = own.batch(own.image(0))
    evaluator = own.adapter.evaluator(own.model, [batch.inputs])
    with pytest.raises(StrategyError, match="what was encoded before the strategy was known, as by a search, keeps"):
        evaluator.evaluate(Strategy(scorer=HiPrune(), schedule=HALF))
