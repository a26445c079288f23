"""Static caches while pruning: what a dynamic cache gives, in buffers of the pruned length."""

import pytest
import torch
from transformers import StaticCache
from transformers.cache_utils import StaticLayer

from support.cases import gemma3
from support.generating import generating, same
from support.masked_oracle import oracle_logits, place, unpruned_embeddings
from support.tiny import IMAGE, LAYERS, VIDEO, image_inputs, random_image, tiny_onevision
from vflowopt import Progressive, Strategy, prune
from vflowopt.errors import PruningStateError, UnsupportedOperationError
from vflowopt.methods import PyramidDrop

STEPS = 20
STRATEGIES = {
    "stages from the first layer": Strategy.vflowopt(
        num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, entropy_weight=0.5, cell=2.5
    ),
    "stages inside the decoder": Strategy.vflowopt(num_layers=LAYERS, retention=(0.3, 0.7), stages=(2, 5), cell=3.0),
}
BY_ATTENTION = Strategy(scorer=PyramidDrop(), schedule=Progressive(stages=(1, 3), retention=(0.5, 0.6)))
STRATEGY = STRATEGIES["stages from the first layer"]
BATCHES = {"one": [[(80, 60)]], "unequal": [[(42, 42)], [(30, 120), (50, 50)], []]}
both = pytest.mark.parametrize("attention", ["eager", "sdpa"])
batches = pytest.mark.parametrize("samples", BATCHES.values(), ids=BATCHES)
generate, assert_same = generating(STEPS + 1), same(2e-6)


@both
@batches
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_static_equals_dynamic_and_the_oracle(attention, samples, strategy):
    model = tiny_onevision(attention)
    inputs = image_inputs(model, samples)
    with prune(model, strategy) as pruning:
        dynamic = generate(model, inputs)
        static = generate(model, inputs, cache_implementation="static")
        plans = pruning.plan
    assert_same(static, dynamic)
    generated = static.sequences[:, inputs["input_ids"].shape[1] : -1]
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(generated)
    full = torch.cat([unpruned_embeddings(model, inputs), embeddings], dim=1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(generated)], dim=1)
    placed = place(inputs["input_ids"], plans, (IMAGE, VIDEO))
    expected = oracle_logits(model, full, mask, placed, (mask.cumsum(1) - 1).clamp(min=0))[:, -(STEPS + 1) :]
    assert (torch.stack(static.logits, dim=1) - expected).abs().max() <= 1e-5


@batches
def test_buffers_have_the_pruned_length(samples):
    """Bytes, exactly: retained rows and room for the answer in pruned layers, all rows before the first stage."""
    model, strategy = tiny_onevision(), STRATEGIES["stages inside the decoder"]
    inputs = image_inputs(model, samples)
    batch, length = inputs["input_ids"].shape
    with prune(model, strategy) as pruning:
        cache = generate(model, inputs, cache_implementation="static").past_key_values
        lengths = pruning.report.sequence_lengths
    text = model.config.text_config
    token = 2 * text.num_key_value_heads * (text.hidden_size // text.num_attention_heads) * 4 * batch
    allocated = [layer.keys.nbytes + layer.values.nbytes for layer in cache.layers]
    assert allocated == [token * (rows + STEPS) for rows in lengths]
    assert len(set(lengths)) == 3
    assert lengths[0] == length
    assert cache.layers[0].known is None  # nothing is missing
    assert [int(layer.get_seq_length()) for layer in cache.layers] == [length + STEPS] * LAYERS
    assert cache.get_max_length() == length + STEPS
    assert all(layer.get_mask_sizes(1) == (length + STEPS, 0) for layer in cache.layers)


@both
@pytest.mark.parametrize("strategy", [STRATEGY, BY_ATTENTION], ids=["importance", "decoder attention"])
def test_several_turns(attention, strategy):
    """Two pruned images and text between and after them, of unequal lengths, on one cache."""
    model = tiny_onevision(attention)
    turns = [
        image_inputs(model, [[(80, 60)], [(42, 42)]]),
        image_inputs(model, [[(40, 90)], []], seed=5),
        image_inputs(model, [[], []], seed=7),
    ]
    found = []
    with prune(model, strategy) as pruning:
        for static in (False, True):
            cache = StaticCache(config=model.config.text_config, max_cache_len=512) if static else None
            ids, mask, outs = torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0, dtype=torch.long), []
            for turn in turns:
                mask = torch.cat([mask, torch.ones(2, ids.shape[1] - mask.shape[1], dtype=torch.long)], dim=1)
                ids, mask = torch.cat([ids, turn["input_ids"]], dim=1), torch.cat([mask, turn["attention_mask"]], dim=1)
                images = {name: turn[name] for name in ("pixel_values", "image_sizes") if name in turn}
                inputs = {"input_ids": ids, "attention_mask": mask, **images, "batch_num_images": None}
                if images:
                    counts = [int((row == IMAGE).any()) for row in turn["input_ids"]]
                    inputs["batch_num_images"] = torch.tensor(counts)
                outs.append(generate(model, inputs, 4, past_key_values=cache))
                ids, cache = outs[-1].sequences, outs[-1].past_key_values
            found.append((outs, cache, pruning.report.full_length))
    (dynamic, *_), (static, cache, _) = found
    for got, expected in zip(static, dynamic, strict=True):
        assert_same(got, expected)
    layer = cache.layers[-1]
    assert layer.keys.shape[2] == 512 - layer.dropped < 512 - 60


@both
@batches
def test_stages_ranked_by_the_decoders_attention(attention, samples):
    """Slots without tokens draw no attention."""
    model = tiny_onevision(attention)
    inputs = image_inputs(model, samples)
    with prune(model, BY_ATTENTION) as pruning:
        dynamic = generate(model, inputs, 4)
        plans = pruning.plan
        static = generate(model, inputs, 4, cache_implementation="static")
        assert [plan.kept[1].tolist() for plan in pruning.plan] == [plan.kept[1].tolist() for plan in plans]
    assert_same(static, dynamic)


def test_a_text_turn_comes_first():
    """The cache has been filled without pruning, so its buffers shrink when pruning begins."""
    model = tiny_onevision()
    text, image = image_inputs(model, [[]]), image_inputs(model, [[(80, 60)]], seed=2)
    found = []
    for cache in (None, StaticCache(config=model.config.text_config, max_cache_len=300)):
        first = generate(model, text, 3, past_key_values=cache)
        ids = torch.cat([first.sequences, image["input_ids"]], dim=1)
        inputs = image | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with prune(model, STRATEGY):
            found.append(generate(model, inputs, 4, past_key_values=first.past_key_values))
    assert_same(found[1], found[0])
    layer = found[1].past_key_values.layers[0]
    assert layer.keys.shape[2] == layer.values.shape[2] == 300 - layer.dropped < 300


def test_reset_makes_room_for_another_prompt():
    """The next image may retain more than the first."""
    model = tiny_onevision()
    small, large = image_inputs(model, [[(42, 42)]]), image_inputs(model, [[(84, 84)]], seed=3)
    longest = large["input_ids"].shape[1] + 4
    cache = StaticCache(config=model.config.text_config, max_cache_len=longest)
    with prune(model, STRATEGY):
        generate(model, large, 4, past_key_values=cache)
        assert max(layer.keys.shape[2] for layer in cache.layers) < longest
        cache.reset()
        assert [int(layer.get_seq_length()) for layer in cache.layers] == [0] * LAYERS
        again = generate(model, small, 4, past_key_values=cache)
        assert_same(again, generate(model, small, 4))
        cache.reset()
    full = generate(model, large, 4, past_key_values=cache)  # a forgotten pruning needs no block
    assert_same(full, generate(model, large, 4))
    assert all(layer.keys.shape[2] == longest for layer in cache.layers)


def test_beams():
    model = tiny_onevision()
    inputs = image_inputs(model, BATCHES["unequal"])
    with prune(model, STRATEGY):
        found = [
            generate(model, inputs, 6, num_beams=3, cache_implementation=kind).sequences
            for kind in ("static", "dynamic")
        ]
    assert torch.equal(*found)


@both
@batches
def test_retention_one_is_bitwise_upstream(attention, samples):
    model = tiny_onevision(attention)
    inputs = image_inputs(model, samples)
    keep = Strategy.vflowopt(num_layers=LAYERS, retention=(1.0, 1.0, 1.0), threshold=1.5, entropy_weight=0.3)
    expected = generate(model, inputs, 6, cache_implementation="static")
    with prune(model, keep):
        got = generate(model, inputs, 6, cache_implementation="static")
    assert all(map(torch.equal, got.logits, expected.logits))
    assert {type(layer) for layer in got.past_key_values.layers} == {StaticLayer}


def test_outside_the_block():
    model = tiny_onevision()
    inputs = image_inputs(model, BATCHES["one"])
    with prune(model, STRATEGY):
        cache = generate(model, inputs, 3, cache_implementation="static").past_key_values
    step = {"input_ids": torch.tensor([[7]]), "past_key_values": cache}
    with pytest.raises(PruningStateError, match="only be continued inside"), torch.no_grad():
        model(**step)


def test_static_windows_are_refused():
    model = gemma3.tiny_gemma3()
    assert gemma3.SLIDING in model.config.text_config.layer_types
    ids = torch.tensor([[gemma3.FIRST_WORD, gemma3.BEGIN, *[gemma3.IMAGE] * gemma3.TOKENS, gemma3.END, 9, 9, 9]])
    image = gemma3.image_processor()([random_image(60, 60)], return_tensors="pt")["pixel_values"]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": image}
    inputs |= gemma3.token_types(model, inputs)
    ran = []
    model.model.language_model.layers[0].register_forward_pre_hook(lambda *_: ran.append(True))
    refused = pytest.raises(
        UnsupportedOperationError, match=r"StaticSlidingWindowLayer for layer 0, .* use DynamicCache"
    )
    with refused, prune(model, STRATEGY):
        generate(model, inputs, 3, cache_implementation="static")
    assert not ran
