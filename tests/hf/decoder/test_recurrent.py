"""Recurrent decoder layers while tokens are pruned: against upstream's own decoder, in every kind of cache."""

import copy
import functools
from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache, StaticCache

from support.cases import lfm2_vl, qwen3_5
from support.conversation import Conversation
from vflowopt import GridRecycler, Progressive, Strategy
from vflowopt.arrays import to_numpy
from vflowopt.errors import PruningStateError, StrategyError, UnsupportedOperationError
from vflowopt.methods import FastV, PyramidDrop
from vflowopt_hf.decoder.layer_kinds import attending_layers
from vflowopt_hf.decoder.recurrent_cache import PrunedRecurrentLayer
from vflowopt_hf.testing.batches import Sample
from vflowopt_hf.testing.generation import generate
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.upstream import cache_from, with_cache

STAGES = (0, 2, 3)


@functools.cache
def subject(attention="sdpa"):
    return Subject(qwen3_5.CASE, attention)


def two_layers(attention):
    return qwen3_5.tiny_qwen3_5(attention, num_hidden_layers=2, layer_types=["linear_attention", "full_attention"])


def states(cache):
    """All tensors of recurrent layers."""
    layers = [layer for layer in cache.layers if hasattr(layer, "conv_states")]
    return [state.clone() for layer in layers for state in (layer.conv_states[0], layer.recurrent_states[0])]


def same(found, expected):
    return all(map(torch.equal, found, expected))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_before_the_first_layer_it_is_upstreams_decoder_on_fewer_rows(attention):
    """No oracle: the retained embeddings, at the positions that they have unpruned."""
    own = subject(attention)
    batch = own.batch(own.image(1))
    model, inputs = own.model, batch.inputs
    with own.prune(own.strategy(batch, (0,), cell=None)) as pruning, torch.no_grad():
        found = model(**inputs, use_cache=True)
        (plan,) = pruning.plan
    ids, rows = inputs["input_ids"], batch.placed[0].rows
    left = torch.ones(ids.shape[1], dtype=torch.bool)
    left[rows] = False
    left[rows[to_numpy(plan.kept[0])]] = True
    with torch.no_grad():
        features = torch.cat(model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])[1])
        embeddings = model.get_input_embeddings()(ids).clone()
        embeddings[0, rows] = features
        positions = model._prepare_position_ids_for_generation(ids, dict(inputs))[..., left]
        decoder = model.model.language_model
        output = decoder(inputs_embeds=embeddings[:, left], position_ids=positions, use_cache=True)
        expected = model.lm_head(output.last_hidden_state)
    assert (found.logits[:, -1] - expected[:, -1]).abs().max() <= 1e-6
    for state, other in zip(states(cache_from(found)), states(cache_from(output)), strict=True):
        assert (state - other).abs().max() <= 1e-6


@pytest.mark.parametrize("samples", ["one", "ragged"])
def test_static_caches_give_what_dynamic_ones_give(samples):
    own = subject()
    batch = own.batch(*([own.image(1)] if samples == "one" else own.ragged()))
    with own.prune(own.strategy(batch, STAGES)):
        dynamic = generate(own, batch.inputs, 8)
        static = generate(own, batch.inputs, 8, cache_implementation="static")
    assert torch.equal(static.sequences, dynamic.sequences)
    for got, expected in zip(static.logits, dynamic.logits, strict=True):
        assert (got - expected).abs().max() <= 5e-6


def test_a_step_is_compiled_once():
    own = Subject(replace(qwen3_5.CASE, model=two_layers), "sdpa")
    model, batch = own.model, own.batch(own.image(1))
    torch._dynamo.reset()
    step = torch.compile(model.__call__, backend="eager")
    found = []
    with own.prune(own.strategy(batch, (1,))), torch.no_grad():
        for run in (model, step):
            cache = StaticCache(config=model.config.text_config, max_cache_len=200)
            output, mask, logits = (
                model(**with_cache(model, batch.inputs, cache)),
                batch.inputs["attention_mask"],
                [],
            )
            for number in range(5):
                logits.append(output.logits[:, -1])
                mask = torch.cat([mask, mask.new_ones(1, 1)], dim=1)
                call = with_cache(model, {"input_ids": logits[-1].argmax(-1, keepdim=True)}, cache)
                call = model.prepare_inputs_for_generation(**call, attention_mask=mask)
                call["position_ids"] = mask.sum(1, keepdim=True).expand(4, -1, -1) - 1
                with torch.compiler.set_stance("default" if number < 2 else "fail_on_recompile"):
                    output = run(**call)
            found.append(torch.stack(logits))
    torch._dynamo.reset()
    assert (found[1] - found[0]).abs().max() <= 1e-5


def test_a_refusal_outside_the_block_changes_no_state():
    """The first layer is recurrent, and would have gone on before the second one refuses."""
    own = subject()
    batch = own.batch(own.image(1))
    with own.prune(own.strategy(batch, (3,))), torch.no_grad():
        cache = cache_from(own.model(**batch.inputs, use_cache=True))
        twin = copy.deepcopy(cache)
        step = with_cache(own.model, {"input_ids": torch.tensor([[7]])}, cache)
        before = states(cache)
    assert isinstance(cache.layers[0], PrunedRecurrentLayer)
    for tokens in ([[7]], [[7, 8, 9]]):
        with pytest.raises(PruningStateError, match="filled while visual tokens were pruned"), torch.no_grad():
            own.model(**{**step, "input_ids": torch.tensor(tokens)})
        assert same(states(cache), before)
    with own.prune(own.strategy(batch, (3,))), torch.no_grad():
        logits = own.model(**step).logits
        assert torch.equal(own.model(**with_cache(own.model, step, twin)).logits, logits)
    assert not same(states(cache), before)
    cache.reset()
    with torch.no_grad():
        own.model(**with_cache(own.model, {"input_ids": torch.tensor([[7, 8]])}, cache))  # as new


def test_a_recurrent_state_is_cut_by_nobody():
    own = subject()
    batch = own.batch(own.image(1))
    with own.prune(own.strategy(batch, STAGES)), torch.no_grad():
        cache = cache_from(own.model(**batch.inputs, use_cache=True))
        before = [int(layer.get_seq_length()) for layer in cache.layers if not hasattr(layer, "conv_states")]
        with pytest.raises(UnsupportedOperationError, match="cannot remove 1000 tokens"):
            cache.crop(-1000)
        with pytest.raises(RuntimeError, match="does not track past states"):  # upstream's own answer
            cache.crop(-1)
    assert before == [int(layer.get_seq_length()) for layer in cache.layers if not hasattr(layer, "conv_states")]


def test_a_convolution_is_cut_within_the_text_and_no_layer_before_a_refusal():
    own = Subject(lfm2_vl.CASE, "sdpa")
    batch = own.batch(own.image(1))
    with own.prune(own.strategy(batch, STAGES)):
        talk = Conversation(own, batch.inputs)
        expected = talk.write([7, 8])
        before = [layer.conv_states[0].clone() for layer in talk.cache.layers if hasattr(layer, "conv_states")]
        with pytest.raises(UnsupportedOperationError, match="cannot remove 1000 tokens"):
            talk.cut(1000)
        left = [layer.conv_states[0] for layer in talk.cache.layers if hasattr(layer, "conv_states")]
        assert same(left, before)
        talk.cut(2)
        assert (talk.write([7, 8]) - expected).abs().max() <= 1e-5


def test_filler_is_kept_out_of_states_that_hold_something():
    own = subject()
    first, ragged = own.batch(own.image(0), own.image(0)), own.batch(own.image(0), Sample(seed=3))
    with own.prune(own.strategy(first, STAGES)):
        talk = Conversation(own, first.inputs)
        before = states(talk.cache)
        with pytest.raises(UnsupportedOperationError, match="different numbers of tokens on a cache"):
            talk.add(ragged.inputs)
        assert same(states(talk.cache), before)
        even = Conversation(own, first.inputs)
        together = even.add(own.batch(own.image(0), own.image(0)).inputs)
        alone = Conversation(own, own.batch(own.image(0)).inputs).add(own.batch(own.image(0)).inputs)
    assert (together - alone).abs().max() <= 1e-5


def test_a_cache_without_states_is_refused():
    own = subject()
    batch = own.batch(own.image(1))
    refused = pytest.raises(UnsupportedOperationError, match="has nothing for layer 0, which is recurrent")
    with own.prune(own.strategy(batch, STAGES)), torch.no_grad(), refused:
        own.model(**with_cache(own.model, batch.inputs, DynamicCache()))


class Layers:
    layer_types = ("linear_attention", "full_attention", "linear_attention", "linear_attention", "full_attention")


@pytest.mark.parametrize(
    ("wanted", "observed"),
    [((1,), {1: 2}), ((2,), {1: 3}), ((3,), {1: 4}), ((1, 4), {1: 2, 4: 5}), ((3, 4), {1: 4, 4: 5}), ((), {})],
)
def test_the_nearest_layer_with_attention_before_a_stage_is_observed(wanted, observed):
    assert attending_layers(Layers(), wanted) == observed


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (
            (0,),
            "FastV ranks by the attention before layer 1, but decoder layers 0 to 0 have none .*at layer 2 or later",
        ),
        ((1, 2), "before layer 3, but decoder layers 2 to 2 have none .linear_attention.; .* at layer 5 or later"),
        ((4, 5), "use another scorer"),
    ],
)
def test_a_stage_that_no_attention_decides_is_refused(wanted, says):
    config = Layers()
    config.layer_types = (*config.layer_types, "linear_attention")
    with pytest.raises(StrategyError, match=says):
        attending_layers(config, wanted, "FastV")


def test_methods_rank_by_the_nearest_attention_and_are_refused_where_there_is_none():
    own = subject()
    batch = own.batch(own.image(1))
    early = Strategy(scorer=FastV(), schedule=Progressive(stages=(1,), retention=(0.5,)))
    with pytest.raises(StrategyError, match=r"qwen3\.5: fastv ranks by the attention before layer 1, but"):
        own.prune(early).__enter__()
    kept = []
    for stage in (2, 4):  # by the attention of layer 1, whatever recurrent layers come after it
        strategy = Strategy(scorer=PyramidDrop(), schedule=Progressive(stages=(stage,), retention=(0.5,)))
        with own.prune(strategy) as pruning, torch.no_grad():
            own.model(**batch.inputs)
            kept.append(to_numpy(pruning.plan[0].kept[0]).tolist())
    assert kept[0] == kept[1]


def test_merging_inside_a_decoder_of_recurrent_layers_changes_what_follows():
    own = subject()
    batch = own.batch(own.image(1))
    plain = own.strategy(batch, (2,), cell=None)
    with torch.no_grad():
        found = []
        for strategy in (plain, plain.model_copy(update={"recycler": GridRecycler(cell=3.0)})):
            with own.prune(strategy):
                found.append(own.model(**batch.inputs).logits[:, -1])
    assert (found[0] - found[1]).abs().max() > 1e-3
