"""Flash and flex attention while pruning, on upstream's own code up to the kernels: the same logits as sdpa."""

import copy
import warnings

import numpy as np
import pytest
import torch
from transformers import StaticCache, modeling_flash_attention_utils

from support.generating import generating, same
from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import Progressive, Strategy, prune
from vflowopt.components.mass import LogMass
from vflowopt.errors import UnsupportedOperationError
from vflowopt.methods import FastV

STRATEGY = Strategy.vflowopt(num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, cell=2.5)
WEIGHED = STRATEGY.model_copy(update={"mass": LogMass(gamma=1)})
either = pytest.mark.parametrize("strategy", [STRATEGY, WEIGHED], ids=["plain", "by mass"])
BATCHES = {"one": [[(80, 60)]], "unequal": [[(42, 42)], [(30, 120), (50, 50)], []]}
batches = pytest.mark.parametrize("samples", BATCHES.values(), ids=BATCHES)
generate, assert_same = generating(8), same(1e-5)


def attend(query, key, value, softmax_scale, causal):
    """[rows, heads, size] on [slots, key heads, size], aligned at the last slot, as flash kernels do it."""
    rows, slots, groups = len(query), len(key), query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.einsum("rhd,shd->hrs", query, key) * softmax_scale
    if causal:
        scores = scores.masked_fill(~torch.ones(rows, slots, dtype=torch.bool).tril(slots - rows), -torch.inf)
    return torch.einsum("hrs,shd->rhd", scores.softmax(-1), value)


@pytest.fixture
def kernels(monkeypatch):
    """Stand-ins for flash attention's kernels; collects (kernel, rows, slots) of each call."""
    calls = []

    def dense(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1)):
        calls.append(("dense", q.shape[1], k.shape[1]))
        return torch.stack([attend(*sample, softmax_scale, causal) for sample in zip(q, k, v, strict=True)])

    def varlen(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
        dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
    ):  # fmt: skip
        rows, slots = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
        calls.append(("varlen", rows, slots))
        parts = zip(q.split(rows), k.split(slots), v.split(slots), strict=True)
        return torch.cat([attend(*part, softmax_scale, causal) for part in parts])

    utils = modeling_flash_attention_utils
    own = utils._pad_input, utils._unpad_input
    monkeypatch.setattr(utils, "_lazy_imports", lambda *_, **__: (dense, varlen, None, *own))
    for name in ("_loaded_implementation", "_flash_fn", "_flash_varlen_fn", "_flash_with_kvcache_fn", "_pad_fn"):
        monkeypatch.setattr(utils, name, None)
    for name in ("_unpad_fn", "_process_flash_kwargs_fn", "_process_with_kvcache_kwargs_fn"):
        monkeypatch.setattr(utils, name, None)
    return calls


def with_attention(model, implementation):
    """The same model whose decoder uses another attention; the public setter would look for its package."""
    other = copy.deepcopy(model)
    for module in other.model.language_model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation_internal = implementation
    return other


@batches
@either
@pytest.mark.parametrize("implementation", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention_equals_sdpa(kernels, samples, implementation, strategy):
    """Without a mask of queries and keys, also where keys have a bias."""
    model = tiny_onevision()
    inputs = image_inputs(model, samples)
    with prune(model, strategy) as pruning:
        expected = generate(model, inputs)
        lengths = pruning.report.sequence_lengths
    flash = with_attention(model, implementation)
    with prune(flash, strategy):
        assert_same(generate(flash, inputs), expected)
    prefill, steps = kernels[:LAYERS], kernels[LAYERS:]
    if len(samples) == 1:
        # Gaps in positions are not packed sequences.
        assert prefill == [("dense", length, length) for length in lengths]
        assert steps[:LAYERS] == [("dense", 1, length + 1) for length in lengths]
    else:
        assert [max(slots) for _, _, slots in prefill] == list(lengths)
        assert all(kernel == "varlen" and rows == slots for kernel, rows, slots in prefill)  # filler is left out
        assert all(kernel == "varlen" and rows == [1] * len(samples) for kernel, rows, _ in steps)
    assert len(steps) == 7 * LAYERS


@either
def test_flash_attention_in_a_second_turn(kernels, strategy):
    model = tiny_onevision()
    first, second = image_inputs(model, [[(80, 60)]]), image_inputs(model, [[(40, 90)]], seed=5)
    found = []
    for own in (model, with_attention(model, "flash_attention_2")):
        with prune(own, strategy):
            out = generate(own, first, 3)
            ids = torch.cat([out.sequences, second["input_ids"]], dim=1)
            inputs = second | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            found.append(generate(own, inputs, 3, past_key_values=out.past_key_values))
    assert_same(found[1], found[0])


def test_a_stage_that_ranks_by_flash_attention_sees_the_bias(kernels):
    model = tiny_onevision()
    inputs, plans = image_inputs(model, BATCHES["unequal"]), []
    strategy = Strategy(
        scorer=FastV(), schedule=Progressive(stages=(1, 3), retention=(0.4, 0.5)), mass=LogMass(gamma=1)
    )
    for own in (model, with_attention(model, "flash_attention_2")):
        with prune(own, strategy) as pruning:
            generate(own, inputs, 2)
            plans.append(pruning.plan)
    for expected, found in zip(*plans, strict=True):
        assert [kept.tolist() for kept in found.kept] == [kept.tolist() for kept in expected.kept]
        np.testing.assert_allclose(found.importance, expected.importance, atol=1e-5)


def test_flash_attention_does_not_lose_the_bias_in_silence(kernels):
    """A block without mass has nothing to carry it with; nothing has run then, and the right block goes on."""
    flash = with_attention(tiny_onevision(), "flash_attention_2")
    inputs, step = image_inputs(flash, BATCHES["one"]), {"input_ids": torch.tensor([[7]]), "use_cache": True}
    with prune(flash, WEIGHED), torch.no_grad():
        cache = flash(**inputs, use_cache=True).past_key_values
        expected = flash(**step, past_key_values=copy.deepcopy(cache)).logits
    with (
        prune(flash, STRATEGY),
        torch.no_grad(),
        pytest.raises(UnsupportedOperationError, match="tokens that get attention by their mass"),
    ):
        flash(**step, past_key_values=cache)
    with prune(flash, WEIGHED), torch.no_grad():
        assert torch.equal(flash(**step, past_key_values=cache).logits, expected)


def test_flash_attention_on_static_caches_is_refused(kernels):
    model = tiny_onevision()
    flash, inputs = with_attention(model, "flash_attention_2"), image_inputs(model, BATCHES["one"])
    cache = StaticCache(config=model.config.text_config, max_cache_len=200)
    with pytest.raises(UnsupportedOperationError, match="attn_implementation='sdpa'"), prune(flash, STRATEGY):
        flash(**inputs, past_key_values=cache)
    assert not kernels


@pytest.fixture
def uncompiled():
    """Flex attention without its fused kernel, which upstream's torch cannot build for every CPU."""
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        yield


@batches
@either
def test_flex_attention_equals_sdpa(uncompiled, samples, strategy):
    model = tiny_onevision()
    inputs = image_inputs(model, samples)
    with prune(model, strategy):
        expected = generate(model, inputs)
    flex = with_attention(model, "flex_attention")
    with prune(flex, strategy) as pruning:
        assert_same(generate(flex, inputs), expected)
        assert pruning.report.retention < 0.5


@either
def test_flex_attention_on_a_static_cache(uncompiled, strategy):
    """In a loop of one's own: upstream's generate cannot make its masks ahead of a step."""
    model = tiny_onevision()
    inputs = image_inputs(model, BATCHES["unequal"])
    mask = torch.cat([inputs["attention_mask"], torch.ones(3, 1, dtype=torch.long)], dim=1)
    step = {"input_ids": torch.full((3, 1), 7), "attention_mask": mask, "position_ids": mask.sum(1, keepdim=True) - 1}
    found = []
    for own, cache in (
        (model, None),
        (with_attention(model, "flex_attention"), StaticCache(config=model.config.text_config, max_cache_len=200)),
    ):
        with prune(own, strategy), torch.no_grad():
            first = own(**inputs, past_key_values=cache)
            second = own(**step, past_key_values=first.past_key_values)
        found.append(torch.stack([first.logits[:, -1], second.logits[:, -1]]))
    assert (found[1] - found[0]).abs().max() <= 1e-5


def test_flex_attention_cannot_rank():
    model = with_attention(tiny_onevision(), "flex_attention")
    strategy = Strategy(scorer=FastV(), schedule=Progressive(stages=(2,), retention=(0.4,)))
    with pytest.raises(UnsupportedOperationError, match="attn_implementation='sdpa'"), prune(model, strategy):
        pass
