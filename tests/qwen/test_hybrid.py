"""Search, flow, benchmark, cost model and questions on a decoder most of whose layers are recurrent."""

import numpy as np
import pytest
import torch

from support.cases import qwen3_5
from vflowopt import KVCacheBytes, Progressive, Strategy, optimize
from vflowopt.errors import UnsupportedModelError
from vflowopt_hf.decoder.contents import key_value_bytes, state_bytes
from vflowopt_hf.decoder.kv_cache import cache_shape
from vflowopt_hf.testing.subject import Subject
from vflowopt_hf.upstream import cache_from

LAYERS = 5
STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.5, 0.6), stages=(1, 3), threshold=1.2, cell=2.5)


@pytest.fixture(scope="module")
def own():
    return Subject(qwen3_5.CASE, "sdpa")


@pytest.fixture(scope="module")
def samples(own):
    return [own.batch(own.image(index)).inputs for index in range(2)]


def test_a_strategy_is_found_that_keeps_to_a_budget_of_bytes(own, samples):
    held = []
    with torch.no_grad():
        for inputs in samples:
            held.append(sum(key_value_bytes(cache_from(own.model(**inputs, use_cache=True)))))
    limit = 0.7 * np.mean(held)
    result = optimize(own.model, samples, KVCacheBytes(limit), iterations=1, initial=2)
    assert result.history[0].score > 0
    found = []
    for inputs in samples:
        with own.prune(result.strategy), torch.no_grad():
            found.append(sum(key_value_bytes(cache_from(own.model(**inputs, use_cache=True)))))
    assert np.mean(found) <= limit
    assert result.strategy.provenance.requested.used == pytest.approx(np.mean(found))


def test_only_layers_that_attend_have_a_row_of_keys(own):
    row = 2 * 2 * 12 * 4  # keys and values, two heads of 12, float32
    assert cache_shape(own.family, own.model).row_bytes == (0, row, 0, 0, row)


def test_hidden_states_are_compared_after_every_layer(own, samples):
    flow = own.adapter.flow(own.model, samples, {"mine": STRATEGY, "all": STRATEGY.model_copy(
        update={"schedule": Progressive(stages=(1, 3), retention=(1.0, 1.0))})})  # fmt: skip
    mine, everything = flow.strategies
    for key, values in mine.values.items():
        assert values.shape == (2, LAYERS)
        assert (everything.values[key] == everything.values[key][:, :1]).all()  # nothing is dropped, nothing differs
        assert np.array_equal(values[:, 0], everything.values[key][:, 0])  # before the first stage
        assert not np.array_equal(values[:, 1:], everything.values[key][:, 1:])


def test_a_benchmark_measures_caches_and_states(own, samples):
    bench = own.adapter.benchmark(own.model, samples[0], {"mine": STRATEGY}, rounds=1, batch=2)
    full, mine = bench.rows
    assert set(mine.times) >= {"LM prefill", "gathers", "decode per token"}
    assert [held > 0 for held in mine.kv_cache_by_layer] == [False, True, False, False, True]
    assert mine.kv_cache_bytes < full.kv_cache_bytes
    with torch.no_grad():
        cache = cache_from(own.model(**own.batch(own.image(0), own.image(0)).inputs, use_cache=True))
    assert mine.state_bytes == full.state_bytes == state_bytes(cache) > 0
    assert mine.flops < full.flops


def test_a_report_tells_of_states_beside_keys(own, samples):
    with own.prune(STRATEGY) as pruning, torch.no_grad():
        cache = cache_from(own.model(**samples[0], use_cache=True))
    assert f"recurrent states {state_bytes(cache):,} bytes, pruned or not" in str(pruning.report)


def test_attention_of_every_layer_is_refused_where_some_have_none(own, samples):
    with pytest.raises(UnsupportedModelError, match=r"layer 0 .*linear_attention"):
        own.adapter.received_attention(own.model, samples)
