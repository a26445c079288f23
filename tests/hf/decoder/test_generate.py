"""generate() while pruning: beams, sampling, several returned sequences, multi-turn caches."""

import pytest
import torch
from transformers import DynamicCache

from support.masked_oracle import oracle_logits, place, unpruned_embeddings
from support.tiny import IMAGE, LAYERS, VIDEO, VOCABULARY, image_inputs, tiny_onevision
from vflowopt import Strategy, prune

STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, cell=2.5)
BATCH = [[(42, 42)], [(30, 120)], []]


def generate(model, inputs, **options):
    """Placeholders are kept from being generated: a fresh prefill would take them for images."""
    return model.generate(**inputs, max_new_tokens=8, suppress_tokens=[IMAGE, VIDEO], **options)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"do_sample": False, "num_beams": 3},
        {"do_sample": False, "num_beams": 4, "num_return_sequences": 2},
        {"do_sample": True, "temperature": 0.8, "num_return_sequences": 2},
    ],
    ids=["greedy", "beams", "several beams returned", "sampling"],
)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_cached_decoding_equals_a_fresh_prefill_per_token(attention, options):
    """Without cache every step prunes the whole prompt anew, so no cache state can be wrong."""
    model = tiny_onevision(attention)
    inputs = image_inputs(model, BATCH)
    found = []
    for use_cache in (True, False):
        torch.manual_seed(1)
        with prune(model, STRATEGY), torch.no_grad():
            found.append(generate(model, inputs, use_cache=use_cache, **options))
    assert torch.equal(*found)


def test_beams_share_their_samples_plan():
    model = tiny_onevision()
    inputs = image_inputs(model, [[(42, 42), (60, 60)], [(84, 42)]])
    with prune(model, STRATEGY) as pruning, torch.no_grad():
        model.generate(**inputs, max_new_tokens=2, num_beams=2, do_sample=False)
        samples = [unit.sample for unit in pruning.report.units]
        counts = [unit.tokens for unit in pruning.report.units]
    assert samples == [0, 0, 1, 1, 2, 3]
    assert counts[0:2] == counts[2:4]
    assert counts[4] == counts[5]


def turn(model, cache, ids, **images):
    mask = torch.ones(1, ids.shape[1], dtype=torch.long)
    with torch.no_grad():
        return model.generate(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=cache,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **images,
        )


@pytest.mark.parametrize("second_image", [False, True], ids=["text follows", "an image follows"])
def test_a_cache_is_continued_in_a_second_turn(second_image):
    """The second turn sees what the oracle sees: the first turn's retained tokens, and its own."""
    model = tiny_onevision()
    first = image_inputs(model, [[(80, 60)]])
    second = image_inputs(model, [[(40, 90)] if second_image else []], seed=5)
    cache = DynamicCache(config=model.config.text_config)
    images = {name: first[name] for name in ("pixel_values", "image_sizes")}
    more = {name: second[name] for name in ("pixel_values", "image_sizes") if name in second}
    with prune(model, STRATEGY) as pruning:
        one = turn(model, cache, first["input_ids"], **images)
        plans = pruning.plan
        conversation = torch.cat([one.sequences, second["input_ids"]], dim=1)
        two = turn(model, cache, conversation, **more)
        plans += pruning.plan if second_image else []
    final = two.sequences[:, :-1]
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(final)
    start = first["input_ids"].shape[1]
    embeddings[:, :start] = unpruned_embeddings(model, first)
    if second_image:
        later = unpruned_embeddings(model, second)
        begin = one.sequences.shape[1]
        embeddings[:, begin : begin + later.shape[1]] = later
    expected = oracle_logits(model, embeddings, torch.ones_like(final), place(final, plans, (IMAGE,)))
    assert (torch.stack(two.logits, dim=1) - expected[:, -4:]).abs().max() <= 1e-5


def test_the_cache_can_be_cropped_back_into_generated_text():
    model = tiny_onevision()
    inputs = image_inputs(model, [[(42, 42)], [(30, 120)]])
    follow = torch.randint(5, VOCABULARY, (2, 4), generator=torch.Generator().manual_seed(2))
    with prune(model, STRATEGY), torch.no_grad():
        caches = []
        for tokens in (follow[:, :2], follow):
            cache = model(**inputs, use_cache=True).past_key_values
            seen = inputs["attention_mask"]
            for column in tokens.T:
                seen = torch.cat([seen, torch.ones(2, 1, dtype=seen.dtype)], dim=1)
                model(input_ids=column[:, None], attention_mask=seen, past_key_values=cache, use_cache=True)
            caches.append(cache)
        for layer in caches[1].layers:
            layer.crop(-2)
        mask = torch.cat([inputs["attention_mask"], torch.ones(2, 3, dtype=torch.long)], dim=1)
        logits = [
            model(input_ids=follow[:, 2:3], attention_mask=mask, past_key_values=cache).logits for cache in caches
        ]
    assert torch.equal(*logits)
