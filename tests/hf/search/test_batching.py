"""Samples of equal length in one batch: fewer forwards, no padding, no masks, the same scores up to rounding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.tiny import LAYERS, image_inputs, tiny_onevision, video_inputs
from vflowopt import Strategy
from vflowopt.plugins import find_adapter
from vflowopt_hf.search.batching import batch_key, batches

STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, entropy_weight=0.4, cell=2.5)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans())), st.integers(0, 400))
def test_batches_are_a_partition_within_the_budget(samples, tokens):
    lengths = [{"a": 30, "b": 50, "c": 110}[kind] for kind, _ in samples]
    keys = [kind if joins else None for kind, joins in samples]
    found = list(batches(keys, lengths, tokens))
    assert sorted(index for batch in found for index in batch) == list(range(len(samples)))
    for batch in found:
        assert len({keys[index] for index in batch}) == 1
        if len(batch) > 1:
            assert keys[batch[0]] is not None
            assert sum(lengths[index] for index in batch) <= tokens
    for key in {key for key in keys if key is not None}:  # no two batches that would fit into one
        sizes = [sum(lengths[index] for index in batch) for batch in found if keys[batch[0]] == key]
        small = [size for size in sizes if 2 * size <= tokens]
        assert len(small) <= 1


def mixed(model):
    """Two lengths, two layouts of one length, and a sample with padding."""
    square = [image_inputs(model, [[(42, 42)]], seed=seed) for seed in range(3)]
    tall = [image_inputs(model, [[(30, 120)]], seed=5)]
    videos = [video_inputs(3, seed=seed) for seed in range(2)]
    padded = image_inputs(model, [[(42, 42)]], seed=6)
    padded["input_ids"] = torch.cat([torch.zeros(1, 2, dtype=torch.long), padded["input_ids"]], dim=1)
    padded["attention_mask"] = torch.cat([torch.zeros(1, 2, dtype=torch.long), padded["attention_mask"]], dim=1)
    return [square[0], tall[0], videos[0], square[1], padded, videos[1], square[2]]


@pytest.mark.parametrize("objective", ["last-token", "first-token", "mean-pooling", "top-3-tokens"])
def test_batches_score_like_single_samples_in_fewer_forwards_without_masks(objective):
    model = tiny_onevision()
    adapter, data = find_adapter(model), mixed(model)
    single = adapter.evaluator(model, data, objective=objective)
    batched = adapter.evaluator(model, data, objective=objective, batch_tokens=2000)
    expected = single.outcomes(STRATEGY)
    shapes, masked = [], []

    def note(_module, args, kwargs):
        shapes.append(len(args[0]))
        masked.append(kwargs["attention_mask"] is not None)

    model.model.language_model.layers[LAYERS - 1].register_forward_pre_hook(note, with_kwargs=True)
    found = batched.outcomes(STRATEGY)
    assert found.similarities == pytest.approx(expected.similarities, abs=1e-5)
    assert found.retentions == expected.retentions
    assert sorted(shapes) == [1, 2, 4]  # the padded sample among its like
    assert not any(masked)


def test_the_budget_bounds_a_batch_and_is_part_of_the_fingerprint():
    model = tiny_onevision()
    adapter, data = find_adapter(model), [image_inputs(model, [[(42, 42)]], seed=seed) for seed in range(3)]
    length = data[0]["input_ids"].shape[1]
    batched = adapter.evaluator(model, data, batch_tokens=2 * length)
    calls = []
    model.model.language_model.register_forward_pre_hook(
        lambda _m, _a, kwargs: calls.append(len(kwargs["inputs_embeds"])), with_kwargs=True
    )
    batched.evaluate(STRATEGY)
    assert calls == [2, 1]
    prints = {adapter.evaluator(model, data, batch_tokens=tokens).fingerprint for tokens in (0, 2 * length, 9999)}
    assert len(prints) == 3


def test_what_cannot_be_joined_for_sure_runs_alone():
    model = tiny_onevision()
    (sample,) = find_adapter(model).evaluator(model, [image_inputs(model, [[(42, 42)]])]).samples
    assert batch_key(sample) is not None
    sample.call["further_embeddings"] = [torch.zeros(3)]  # nobody knows where its batch axis is
    assert batch_key(sample) is None
