"""Attention by mass while pruning: as if the logits of retained keys had been raised, whatever the cache."""

import copy
import warnings

import numpy as np
import pytest
import torch
from transformers import StaticCache

from oracles import mass as mass_oracle
from support.cases import gemma3, llava_onevision, qwen2_vl
from support.generating import generating, same
from support.tiny import LAYERS, image_inputs, tiny_onevision
from vflowopt import Progressive, Strategy, prune
from vflowopt.components.mass import LogMass
from vflowopt.errors import UnsupportedOperationError
from vflowopt.methods import FastV
from vflowopt.methods.sparsevlm_recycler import DensityPeaks
from vflowopt_hf.decoder.key_bias import attend_with_bias, require_carriable
from vflowopt_hf.testing.generation import generate as generate_case
from vflowopt_hf.testing.generation import require_oracle_logits
from vflowopt_hf.testing.oracle import Oracle
from vflowopt_hf.testing.subject import Subject

STEPS = 8
BATCHES = {"one": [[(80, 60)]], "unequal": [[(42, 42)], [(30, 120), (50, 50)], []]}
batches = pytest.mark.parametrize("samples", BATCHES.values(), ids=BATCHES)
both = pytest.mark.parametrize("attention", ["eager", "sdpa"])
generate, assert_same = generating(STEPS), same(1e-5)


def weighed(gamma=1.0, recycler=None, stages=(0, 2, 4), cell=2.5):
    plain = Strategy.vflowopt(
        num_layers=LAYERS, retention=(0.4, 0.6, 0.5)[: len(stages)], stages=stages, threshold=1.2, cell=cell
    )
    changed = {"mass": LogMass(gamma=gamma)} | ({} if recycler is None else {"recycler": recycler})
    return plain.model_copy(update=changed)


BY_ATTENTION = Strategy(
    scorer=FastV(), schedule=Progressive(stages=(1, 3), retention=(0.4, 0.5)), mass=LogMass(gamma=0.8)
)
STRATEGIES = {
    "before the decoder": weighed(),
    "inside the decoder": weighed(0.5, stages=(1, 3), cell=None),
    "by its attention": BY_ATTENTION,
    "merging at every stage": weighed(recycler=DensityPeaks()),
}
strategies = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


@strategies
@pytest.mark.parametrize(
    ("case", "attention"),
    [(llava_onevision.CASE, "eager"), (llava_onevision.CASE, "sdpa"), (gemma3.CASE, "sdpa")],
    ids=["onevision-eager", "onevision-sdpa", "gemma3-sdpa"],
)
def test_prefill_and_steps_equal_the_oracle(case, attention, strategy):
    own = Subject(case, attention)
    batch = own.batch(*own.ragged())
    strategy = strategy.model_copy(update={"schedule": own.strategy(batch, strategy.schedule.boundaries).schedule})
    with own.prune(strategy) as pruning:
        output = generate_case(own, batch.inputs, STEPS)
        plans = pruning.plan
    assert max(bias.max() for plan in plans for bias in plan.bias) > 0.5
    require_oracle_logits(Oracle(own, batch, plans), output, "mass")


@both
def test_stages_rank_by_the_attention_that_there_was(attention):
    """FastV's second stage sees the attention of keys whose logits the first has raised."""
    own = Subject(llava_onevision.CASE, attention)
    batch = own.batch(own.image(1))
    schedule = own.strategy(batch, BY_ATTENTION.schedule.boundaries).schedule
    with own.prune(BY_ATTENTION.model_copy(update={"schedule": schedule})) as pruning:
        generate_case(own, batch.inputs, 1)
        (plan,) = pruning.plan
    eager, seen = Subject(llava_onevision.CASE, "eager"), []
    layer = eager.model.model.language_model.layers[2]
    handle = layer.self_attn.register_forward_hook(lambda _module, _args, output: seen.append(output[1]))
    Oracle(eager, batch, [plan]).logits(batch.inputs["input_ids"])
    handle.remove()
    rows, kept = batch.placed[0].rows, plan.kept[0]
    received = seen[0][0, :, -1].mean(dim=0)[rows[kept]].numpy()
    ranked = ~plan.structural[kept]
    np.testing.assert_allclose(plan.importance[kept][ranked], received[ranked], atol=1e-5)


def test_plans_hold_what_the_tokens_stand_for():
    own = Subject(qwen2_vl.CASE, "sdpa")
    batch = own.batch(own.image(1))
    embeddings = []
    handle = own.family.decoder(own.model).register_forward_pre_hook(
        lambda _module, _args, kwargs: embeddings.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with own.prune(own.strategy(batch, mass=LogMass(gamma=1))) as pruning:
        generate_case(own, batch.inputs, 1)
        (plan,) = pruning.plan
    handle.remove()
    features = embeddings[0][0, batch.placed[0].rows].numpy()
    expected, _ = mass_oracle.masses(plan, features, [plan.importance] * len(plan.kept))
    for kept, found, wanted in zip(plan.kept, plan.mass, expected, strict=True):
        assert found.tolist() == [wanted[token] for token in kept.tolist()]
        assert found.sum() == plan.tokens


@batches
@strategies
def test_static_caches_hold_it_too(samples, strategy):
    model = tiny_onevision()
    inputs = image_inputs(model, samples)
    with prune(model, strategy):
        expected = generate(model, inputs)
        assert_same(generate(model, inputs, cache_implementation="static"), expected)
    with prune(model, strategy.model_copy(update={"mass": None})):
        without = generate(model, inputs)
    assert (torch.stack(without.logits) - torch.stack(expected.logits)).abs().max() > 1e-3


def test_several_turns_on_dynamic_and_static_caches():
    """Images follow text on one cache; the last turn is pruned by a strategy without mass and keeps that of before."""
    model = tiny_onevision()
    first, second = image_inputs(model, [[(80, 60)]]), image_inputs(model, [[(40, 90)]], seed=5)
    found = []
    for cache in (None, StaticCache(config=model.config.text_config, max_cache_len=512)):
        with prune(model, weighed()):
            one = generate(model, first, 3, past_key_values=cache)
        ids = torch.cat([one.sequences, second["input_ids"]], dim=1)
        inputs = second | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with prune(model, weighed().model_copy(update={"mass": None})):
            found.append(generate(model, inputs, 3, past_key_values=one.past_key_values))
        layer = found[-1].past_key_values.layers[-1]
        assert layer.known.bias.max() > 0.5
    assert_same(found[1], found[0])


@batches
@pytest.mark.parametrize("mass", [LogMass(), LogMass(gamma=0, weighted=True)], ids=["gamma 0", "weighted"])
def test_without_strength_nothing_changes_bitwise(samples, mass):
    for attention in ("eager", "sdpa"):
        model = tiny_onevision(attention)
        inputs = image_inputs(model, samples)
        with prune(model, weighed().model_copy(update={"mass": None})):
            expected = generate(model, inputs)
        with prune(model, weighed().model_copy(update={"mass": mass})):
            got = generate(model, inputs)
        assert all(map(torch.equal, got.logits, expected.logits))
        assert all(layer.known.bias is None for layer in got.past_key_values.layers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_bias_is_carried_through_dot_products(dtype):
    """To what the dtype can tell of the sum, not of the bias alone."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 3, 16, generator=generator).to(dtype)
    key, value = (torch.randn(2, 2, 5, 16, generator=generator).to(dtype) for _ in range(2))
    bias = 6 * torch.rand(2, 5, generator=generator)
    seen = {}

    def attend(module, query, key, value, mask, scaling, dropout):
        assert (module, mask, dropout) == ("module", None, 0.0)
        assert query.shape[-1] == key.shape[-1] == value.shape[-1] == 24
        seen["scores"] = query.double() @ key.double().repeat_interleave(2, dim=1).transpose(2, 3) * scaling
        return value.repeat_interleave(2, dim=1)[:, :, :1].transpose(1, 2), None

    output, weights = attend_with_bias(attend, bias, "module", query, key, value, None, dropout=0.0, scaling=None)
    plain = query.double() @ key.double().repeat_interleave(2, dim=1).transpose(2, 3) / 4
    expected = plain + bias.double()[:, None, None, :]
    bound = {torch.float32: 1e-6, torch.float16: 1e-5, torch.bfloat16: 2e-4}[dtype]
    assert (seen["scores"] - expected).abs().max() <= bound
    assert output.shape == (2, 1, 4, 16)
    assert torch.equal(output, value.repeat_interleave(2, dim=1)[:, :, :1].transpose(1, 2))
    assert weights is None


@pytest.mark.parametrize(
    ("change", "implementation", "why"),
    [
        ({"head_dim": 256}, "flash_attention_2", "heads of 256 leave no room"),
        ({"attn_logit_softcapping": 30.0}, "flex_attention", "caps its logits"),
    ],
)
def test_what_cannot_carry_a_bias_is_refused(change, implementation, why):
    config = copy.deepcopy(tiny_onevision().config.text_config)
    require_carriable(config, implementation)
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(UnsupportedOperationError, match=rf"{why}.*attn_implementation='sdpa'"):
        require_carriable(config, implementation)


def test_half_precision():
    model = tiny_onevision().bfloat16()
    inputs = image_inputs(model, BATCHES["unequal"])
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with prune(model, weighed()), torch.no_grad():
        assert torch.isfinite(model(**inputs).logits[:, -1]).all()


def test_units_that_are_planned_as_one_warn_of_nothing():
    """Torch warns of memory that is not in order, once per program."""
    model = tiny_onevision()
    inputs, before = image_inputs(model, [[(80, 60)]] * 3), torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings(), torch.no_grad(), prune(model, "calibrated-attention@0.2,cell=2,mass=1"):
            warnings.simplefilter("error")
            model(**inputs)
    finally:
        torch.set_warn_always(before)
