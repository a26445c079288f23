"""Pruned sliding-window layers against upstream's own full-length forward with the pruned keys hidden."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from support import tiny
from support.cases import gemma3
from support.masked_oracle import merged, place
from support.repeats import repeats
from support.tiny import random_image, tiny_qwen2_decoder
from vflowopt import Strategy, prune
from vflowopt.errors import UnsupportedOperationError
from vflowopt_hf.decoder.cache import PrunedSlidingLayer
from vflowopt_hf.decoder.masks import pruned_mask
from vflowopt_hf.decoder.slots import Slots
from vflowopt_hf.decoder.windows import require_logical_window, sliding_window

STEPS = 20
STRATEGIES = {
    "recycling and entropy": Strategy.vflowopt(
        num_layers=6, retention=(0.6, 0.6, 0.5), threshold=1.2, entropy_weight=0.5, cell=2.5
    ),
    "recycling inside the decoder": Strategy.vflowopt(num_layers=6, retention=(0.5, 0.7), stages=(1, 5), cell=2.0),
}
STRATEGY = STRATEGIES["recycling and entropy"]
BATCHES = {"batch 1": [[(72, 72)]], "ragged": [[(72, 72)], [(40, 120), (150, 60)], []]}
both = pytest.mark.parametrize("attention", ["sdpa", *repeats("eager")])


def gemma_inputs(model, samples, *, seed=0, text=9):
    """A left-padded batch; each sample is a list of image sizes."""
    rng = np.random.default_rng(seed)
    prompts, images = [], []
    for number, shapes in enumerate(samples):
        ids = list(rng.integers(gemma3.FIRST_WORD, gemma3.VOCABULARY, 3 + number))
        for shape in shapes:
            images.append(random_image(*shape, seed=seed + len(images)))
            ids += [gemma3.BEGIN, *[gemma3.IMAGE] * gemma3.TOKENS, gemma3.END]
        prompts.append(ids + list(rng.integers(gemma3.FIRST_WORD, gemma3.VOCABULARY, text + 2 * number)))
    longest = max(map(len, prompts))
    ids = torch.tensor([[gemma3.PAD] * (longest - len(row)) + [int(i) for i in row] for row in prompts])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts]),
    } | gemma3.token_types(model, {"input_ids": ids})
    if images:
        inputs["pixel_values"] = gemma3.image_processor()(images, return_tensors="pt")["pixel_values"]
    return inputs


FAMILIES = {
    "gemma3": (gemma3.tiny_gemma3, gemma_inputs),
    "qwen2 decoder": (tiny_qwen2_decoder, tiny.image_inputs),
}
families = pytest.mark.parametrize(("make", "inputs_of"), FAMILIES.values(), ids=FAMILIES)


def upstream_logits(model, inputs, plans):
    """Upstream's forward over all tokens without a cache, every pruned key hidden from its stage on."""
    placed = place(inputs["input_ids"], plans, (1,))

    def hide(index, module, args, kwargs):
        hidden = merged(args[0], [entry for entry in placed if entry[2].boundaries[0] == index])
        alive = torch.ones(inputs["input_ids"].shape, dtype=torch.bool)
        for sample, rows, plan in placed:
            for boundary, kept in zip(plan.boundaries, plan.kept, strict=True):
                if boundary <= index:
                    alive[sample, rows] = False
                    alive[sample, rows[np.asarray(kept)]] = True
        mask = kwargs["attention_mask"].masked_fill(~alive[:, None, None, :], torch.finfo(torch.float32).min)
        return (hidden, *args[1:]), kwargs | {"attention_mask": mask}

    handles = [
        layer.register_forward_pre_hook(partial(hide, index), with_kwargs=True)
        for index, layer in enumerate(model.model.language_model.layers)
    ]
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    try:
        with torch.no_grad():
            return model(**inputs, position_ids=positions, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()


def extended(model, inputs, ids):
    """The inputs with ``ids`` in place of the prompt, all that follows it being seen."""
    new = ids.shape[1] - inputs["input_ids"].shape[1]
    mask = torch.cat([inputs["attention_mask"], torch.ones(len(ids), new, dtype=torch.long)], dim=1)
    longer = inputs | {"input_ids": ids, "attention_mask": mask}
    return longer | (gemma3.token_types(model, longer) if "token_type_ids" in inputs else {})


def generate(model, inputs, steps, **options):
    """Placeholders are kept from being generated: the oracle would take them for images."""
    with torch.no_grad():
        return model.generate(
            **inputs,
            max_new_tokens=steps,
            suppress_tokens=[1, 2],
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )


def assert_equal_to_oracle(make, model, inputs, out, plans):
    """All logits of a call of generate, prefill and decode steps, are the oracle's."""
    oracle = make("eager")
    oracle.model.vision_tower = model.model.vision_tower  # sdpa and eager towers round differently
    got = torch.stack(out.logits, dim=1)
    expected = upstream_logits(oracle, extended(oracle, inputs, out.sequences[:, :-1]), plans)[:, -got.shape[1] :]
    assert (got - expected).abs().max() <= 1e-5
    assert expected.abs().max() > 0.1  # the bound means something


@both
@families
@pytest.mark.parametrize("samples", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_prefill_and_decoding_equal_the_oracle(attention, make, inputs_of, samples, strategy):
    model = make(attention)
    inputs = inputs_of(model, samples)
    with prune(model, strategy) as pruning:
        out = generate(model, inputs, STEPS + 1)
        plans, lengths = pruning.plan, pruning.report.sequence_lengths
    assert inputs["input_ids"].shape[1] > 2 * gemma3.WINDOW
    assert_equal_to_oracle(make, model, inputs, out, plans)
    types = model.config.text_config.layer_types
    for kind, length, layer in zip(types, lengths, out.past_key_values.layers, strict=True):
        stored = length + STEPS
        assert layer.keys.shape[-2] == (min(stored, gemma3.WINDOW - 1) if kind == gemma3.SLIDING else stored)
        assert layer.get_seq_length() == inputs["input_ids"].shape[1] + STEPS


@families
def test_windows_change_the_output(make, inputs_of):
    """Guards the oracle: with a window that holds everything, it would say something else."""
    model = make("eager")
    inputs = inputs_of(model, BATCHES["batch 1"])
    found = []
    for window in (gemma3.WINDOW, 1000):
        model.config.text_config.sliding_window = window
        with prune(model, STRATEGY):
            found.append(generate(model, inputs, 1).logits[0])
    assert (found[0] - found[1]).abs().max() > 1e-3


@both
@families
def test_generated_text_outgrows_the_window(attention, make, inputs_of):
    """Until then sdpa needs no mask, as upstream."""

    def wider(attention):
        model = make(attention)
        model.config.text_config.sliding_window = length + STEPS // 2
        return model

    inputs = inputs_of(make(attention), BATCHES["batch 1"])
    length = inputs["input_ids"].shape[1]
    model = wider(attention)
    with prune(model, STRATEGY) as pruning:
        out = generate(model, inputs, STEPS + 1)
        plans = pruning.plan
    assert_equal_to_oracle(wider, model, inputs, out, plans)


@both
@families
@pytest.mark.parametrize("samples", BATCHES.values(), ids=BATCHES)
def test_retention_one_is_bitwise_upstream(attention, make, inputs_of, samples):
    model = make(attention)
    inputs = inputs_of(model, samples)
    keep = Strategy.vflowopt(num_layers=6, retention=(1.0, 1.0, 1.0), threshold=1.5, entropy_weight=0.3)
    expected = generate(model, inputs, 6)
    with prune(model, keep):
        got = generate(model, inputs, 6)
    assert all(map(torch.equal, got.logits, expected.logits))
    assert {type(layer) for layer in got.past_key_values.layers} == {DynamicLayer, DynamicSlidingWindowLayer}


@both
@families
def test_turns_after_a_text_longer_than_the_window(attention, make, inputs_of):
    """Upstream's layers have discarded text when pruning starts; two images and text follow, on one cache."""
    model = make(attention)
    cache = DynamicCache(config=model.config.text_config)
    turns = [inputs_of(model, [shapes], seed=seed, text=2 * gemma3.WINDOW - 5 * seed) for seed, shapes in TURNS]
    inputs = {name: value for name, value in turns[0].items() if name != "pixel_values"}
    out = generate(model, inputs, 3, past_key_values=cache)
    assert {layer.keys.shape[-2] < cache.get_seq_length() for layer in cache.layers} == {True, False}
    pixels, plans = [], []
    with prune(model, STRATEGY) as pruning:
        for turn in turns[1:]:
            ids = torch.cat([out.sequences, turn["input_ids"]], dim=1)
            own = {name: value for name, value in turn.items() if name in ("pixel_values", "image_sizes")}
            out = generate(model, extended(model, inputs, ids) | own, 5, past_key_values=cache)
            if own:
                pixels.append(own)
                plans += pruning.plan
                assert_equal_to_oracle(make, model, with_images(inputs, pixels), out, plans)
    assert len(plans) == 2
    assert_equal_to_oracle(make, model, with_images(inputs, pixels), out, plans)


@both
def test_turns_of_a_ragged_batch(attention):
    """Filler and padding lie between the turns, on the side of the sample with fewer images."""
    model = gemma3.tiny_gemma3(attention)
    cache = DynamicCache(config=model.config.text_config)
    first = gemma_inputs(model, [[(72, 72)], [(40, 120), (150, 60)]])
    second = gemma_inputs(model, [[(60, 90), (80, 40)], []], seed=5)
    with prune(model, STRATEGY) as pruning:
        out = generate(model, first, 4, past_key_values=cache)
        plans = pruning.plan
        both_turns = extended(model, first, torch.cat([out.sequences, second["input_ids"]], dim=1))
        both_turns["attention_mask"][:, -second["input_ids"].shape[1] :] = second["attention_mask"]
        out = generate(model, both_turns | {"pixel_values": second["pixel_values"]}, STEPS, past_key_values=cache)
        plans[1:1] = pruning.plan  # prompt order: sample by sample
    pixels = torch.cat([first["pixel_values"][:1], second["pixel_values"], first["pixel_values"][1:]])
    assert_equal_to_oracle(gemma3.tiny_gemma3, model, both_turns | {"pixel_values": pixels}, out, plans)


TURNS = [(0, []), (1, [(72, 72)]), (2, [(40, 120)]), (3, [])]


def with_images(inputs, pixels):
    """The inputs with the pixels of all turns; images of unlike numbers of views are padded."""
    if pixels[0]["pixel_values"].ndim == 4:
        return inputs | {"pixel_values": torch.cat([own["pixel_values"] for own in pixels])}
    most = max(own["pixel_values"].shape[1] for own in pixels)
    padded = [
        torch.nn.functional.pad(own["pixel_values"], (0,) * 7 + (most - own["pixel_values"].shape[1],))
        for own in pixels
    ]
    return inputs | {
        "pixel_values": torch.cat(padded),
        "image_sizes": torch.cat([own["image_sizes"] for own in pixels]),
    }


@both
@families
@pytest.mark.parametrize("beams", [1, 3])
def test_cached_decoding_equals_a_fresh_prefill_per_token(attention, make, inputs_of, beams):
    model = make(attention)
    inputs = inputs_of(model, BATCHES["ragged"])
    found = []
    for use_cache in (True, False):
        with prune(model, STRATEGY):
            found.append(generate(model, inputs, 6, num_beams=beams, use_cache=use_cache).sequences)
    assert torch.equal(*found)


@families
def test_a_plain_dynamic_cache_keeps_everything_and_masks_window_it(make, inputs_of):
    model = make("sdpa")
    inputs = inputs_of(model, BATCHES["batch 1"])
    with prune(model, STRATEGY) as pruning:
        out = generate(model, inputs, 5, past_key_values=DynamicCache())
        plans = pruning.plan
    assert_equal_to_oracle(make, model, inputs, out, plans)


@families
def test_assisted_decoding_undoes_tokens_beyond_the_window(make, inputs_of):
    """Prompt lookup proposes words that are mostly wrong, and crops them out of the cache again."""
    model = make("sdpa")
    inputs = inputs_of(model, BATCHES["batch 1"])
    cropped = []
    with prune(model, STRATEGY):
        expected = generate(model, inputs, STEPS).sequences
        cache = DynamicCache(config=model.config.text_config)
        crop = cache.crop
        cache.crop = lambda tokens: (cropped.append(tokens), crop(tokens))
        with torch.no_grad():
            got = model.generate(
                **inputs,
                max_new_tokens=STEPS,
                suppress_tokens=[1, 2],
                do_sample=False,
                past_key_values=cache,
                prompt_lookup_num_tokens=3,
                max_matching_ngram_size=1,
            )
    assert torch.equal(got, expected)
    assert any(tokens < 0 for tokens in cropped)
    assert all(layer.stored_length() < gemma3.WINDOW for layer in cache.layers if layer.is_sliding)


def filled(discarding):
    """Window of 4; two samples that retain logical tokens 1, 4 and 0, 4 of five, or of a longer text before them."""
    upstream = DynamicSlidingWindowLayer(sliding_window=4)
    if discarding:
        upstream.update(*[torch.zeros(2, 1, 10, 2)] * 2)
    layer = PrunedSlidingLayer(upstream)
    start = layer.get_seq_length()
    slots = torch.tensor([[1, 4], [0, 4]]) + start
    if discarding:
        slots = torch.cat([torch.arange(7, 10).expand(2, -1), slots], dim=1)
    layer.skip(Slots(slots), skipped=3, fixed=0, stage=0)
    layer.expect(2)
    layer.update(*[torch.arange(2.0)[:, None, None, None].expand(2, 1, 2, 2)] * 2)
    return layer


def slots_of(layer):
    """Logical index of each stored token."""
    return layer.slots_after(0, None, 2, torch.device("cpu")).logical.tolist()


def test_a_layer_reports_the_unpruned_layers_lengths():
    upstream = DynamicSlidingWindowLayer(sliding_window=4)
    upstream.update(*[torch.zeros(2, 1, 5, 2)] * 2)
    layer = filled(discarding=False)
    assert layer.get_seq_length() == upstream.get_seq_length() == 5
    assert [layer.get_mask_sizes(q) for q in (1, 3)] == [upstream.get_mask_sizes(q) for q in (1, 3)] == [(4, 2), (6, 2)]
    assert layer.get_max_length() == upstream.get_max_length()
    assert layer.stored_length() == 2
    assert slots_of(layer) == [[1, 4], [0, 4]]


def test_a_layer_stores_no_more_than_the_window():
    layer = filled(discarding=True)
    assert layer.get_seq_length() == 15
    assert layer.stored_length() == 3
    assert slots_of(layer) == [[9, 11, 14], [9, 10, 14]]
    layer.reorder_cache(torch.tensor([1, 0]))
    assert [row[1] for row in slots_of(layer)] == [10, 11]
    layer.reset()
    assert (layer.get_seq_length(), layer.get_mask_sizes(2)) == (0, (2, 0))


def test_cropping_needs_what_the_window_uncovers():
    layer = filled(discarding=True)
    layer.expect(1)
    layer.update(*[torch.zeros(2, 1, 1, 2)] * 2)
    with pytest.raises(UnsupportedOperationError, match="activate_past_recording"):
        layer.crop(-1)
    layer.activate_past_recording()
    layer.expect(1)
    layer.update(*[torch.zeros(2, 1, 1, 2)] * 2)
    assert layer.stored_length() == 4
    layer.crop(-1)
    assert layer.get_seq_length() == 16
    assert slots_of(layer)[0] == [11, 14, 15]


def flash_like(module, query, key, value, attention_mask, scaling, sliding_window=None, **kwargs):
    """Attention as flash kernels do it: a mask of keys only, causality and window by number of stored keys."""
    rows, columns = query.shape[2], key.shape[2]
    distance = torch.arange(columns - rows, columns)[:, None] - torch.arange(columns)[None, :]
    seen = (distance >= 0) & (distance < (sliding_window or columns))
    seen = seen if attention_mask is None else seen & attention_mask[:, None, None, :].bool()
    key, value = (states.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for states in (key, value))
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~seen, torch.finfo(torch.float32).min)
    return (scores.softmax(dim=-1) @ value).transpose(1, 2), None


def test_flash_attention_decodes_beyond_the_window(monkeypatch):
    """And a prefill beyond the window, for which it has no right mask, is refused."""
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_like", flash_like)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "flash_like", flash_attention_mask)

    model = tiny_qwen2_decoder("sdpa")
    inputs = tiny.image_inputs(model, BATCHES["ragged"])
    model.config.text_config._attn_implementation_internal = "flash_like"
    with prune(model, STRATEGY), pytest.raises(UnsupportedOperationError, match="window of 20 tokens in retained tok"):
        generate(model, inputs, 1)
    make = partial(tiny_qwen2_decoder, window=inputs["input_ids"].shape[1] + STEPS // 2)
    model = make("sdpa")
    model.config.text_config._attn_implementation_internal = "flash_like"
    with prune(model, STRATEGY) as pruning:
        out = generate(model, inputs, STEPS + 1)
        plans = pruning.plan
    assert_equal_to_oracle(make, model, inputs, out, plans)


def test_flash_attention_sees_only_keys_inside_the_window():
    """For one query, hiding all keys outside the window is the window."""
    columns = torch.tensor([[0, 1, 1, 1]])  # logical tokens 5 to 8, the first of them padding
    key = torch.tensor([[3, 5, 6, 8]])
    reduced = partial(pruned_mask, query=None, key=Slots(key), rows=1, start=3, first=5, dtype=torch.float32)
    hidden = reduced(columns, implementation="flash_attention_2")
    assert hidden.tolist() == [[0, 0, 1, 1]]
    hidden = reduced(None, implementation="flash_attention_2")
    assert hidden.tolist() == [[False, True, True, True]]
    check = partial(require_logical_window, 4, implementation="flash_attention_2")
    check(9, 1, in_cache=True)
    check(4, 4, in_cache=False)
    for refused in (partial(check, 9, 2, in_cache=True), partial(check, 9, 1, in_cache=False)):
        with pytest.raises(UnsupportedOperationError, match="attn_implementation='sdpa'"):
            refused()


def test_windows_follow_the_configuration():
    config = gemma3.tiny_gemma3().config.text_config
    assert [sliding_window(config, layer) for layer in (1, 2)] == [gemma3.WINDOW, None]
    config.layer_types = ["chunked_attention"]
    with pytest.raises(UnsupportedOperationError, match="layer 0 has 'chunked_attention'"):
        sliding_window(config, 0)
    del config.layer_types
    assert sliding_window(config, 0) == gemma3.WINDOW
    config.sliding_window = None
    assert sliding_window(config, 0) is None


@families
def test_the_report_counts_the_bytes_that_are_in_the_cache(make, inputs_of):
    """A sliding layer keeps no more than its window, pruned or not."""
    model = make("sdpa")
    inputs = inputs_of(model, BATCHES["batch 1"])
    with torch.no_grad():
        full = model(**inputs).past_key_values
        with prune(model, STRATEGY) as pruning:
            pruned = model(**inputs).past_key_values
            report = pruning.report
    assert report.kv_cache_bytes == stored_bytes(pruned)
    assert report.kv_cache_bytes_unpruned == stored_bytes(full)


def stored_bytes(cache):
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
