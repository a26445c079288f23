"""A KV-cache budget against the tensors of a real cache."""

import pytest
import torch

from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import KVCacheBytes, Progressive, Strategy, optimize, prune
from vflowopt.errors import BudgetError
from vflowopt.plugins import find_adapter
from vflowopt_hf.decoder.kv_cache import cache_shape


def cache_bytes(model, inputs, strategy=None):
    """Bytes of the tensors that a prefill leaves."""

    def prefill():
        with torch.no_grad():
            return model(**inputs, use_cache=True).past_key_values

    if strategy is None:
        cache = prefill()
    else:
        with prune(model, strategy):
            cache = prefill()
    return sum(
        tensor.numel() * tensor.element_size() for layer in cache.layers for tensor in (layer.keys, layer.values)
    )


def samples(model):
    return [image_inputs(model, [[size]], seed=seed) for seed, size in enumerate([(42, 42), (80, 60), (30, 120)])]


@pytest.mark.parametrize("worst", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_strategy_found_keeps_to_the_budget(worst, dtype):
    model = tiny_onevision()
    data = [
        {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        for inputs in samples(model)
    ]
    model = model.to(dtype)
    whole = [cache_bytes(model, inputs) for inputs in data]
    limit = 0.5 * (max(whole) if worst else sum(whole) / len(whole))
    result = optimize(model, data, KVCacheBytes(limit, worst=worst), iterations=0, initial=4)
    row = cache_shape(find_adapter(model).family, model).row_bytes[0]
    for entry in result.history:
        found = [cache_bytes(model, inputs, entry.strategy) for inputs in data]
        assert (max(found) if worst else sum(found) / len(found)) <= limit
    flat = Strategy(
        scorer=result.strategy.scorer,
        schedule=Progressive.flat(result.strategy.provenance.budget),
        recycler=result.strategy.recycler,
    )
    used = [cache_bytes(model, inputs, flat) for inputs in data]
    # Per layer: the token that the bound leaves for stages that retain less than one, half of one by rounding down.
    assert limit - 1.5 * row * LAYERS <= (max(used) if worst else sum(used) / len(used)) <= limit
    requested = result.strategy.provenance.requested
    best = [cache_bytes(model, inputs, result.strategy) for inputs in data]
    assert requested.used == pytest.approx(max(best) if worst else sum(best) / len(best))


def test_the_bounds_are_those_of_real_caches():
    model = tiny_onevision()
    data = samples(model)
    whole = sum(cache_bytes(model, inputs) for inputs in data) / len(data)
    with pytest.raises(BudgetError, match=f"{int(whole):,} bytes .*unpruned"):
        optimize(model, data, KVCacheBytes(whole + 1), iterations=0, initial=1)
    assert optimize(model, data, KVCacheBytes(whole), iterations=0, initial=1).strategy.provenance.budget == 1
