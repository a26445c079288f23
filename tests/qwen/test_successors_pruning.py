"""Staged pruning of Qwen2.5-VL and Qwen3-VL against upstream's own full-length forward with pruned keys hidden."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch

from support.cases import qwen2_5_vl, qwen3_vl, qwen3_vl_moe
from support.masked_oracle import merged, place
from support.repeats import repeats
from support.tiny_qwen import IMAGE, LAYERS, VIDEO, qwen_inputs
from vflowopt import Strategy, prune
from vflowopt.plugins import find_adapter

STEPS = 20
FAMILIES = {"qwen2.5-vl": qwen2_5_vl.CASE, "qwen3-vl": qwen3_vl.CASE, "qwen3-vl-moe": qwen3_vl_moe.CASE}
CASES = {
    "image": [[(60, 84)]],
    "several images": [[(24, 36), (72, 48), (36, 60)]],
    "video": [[(6, 36, 48)]],
    "ragged batch": [[(24, 36)], [(36, 96), (4, 24, 36), (48, 24)], [], [(6, 24, 24)]],
}
STRATEGIES = {
    "0, 2, 4": Strategy.vflowopt(
        num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, entropy_weight=0.5, cell=2.5
    ),
    "1, 5": Strategy.vflowopt(num_layers=LAYERS, retention=(0.3, 0.7), stages=(1, 5), cell=3.0),
}
families = pytest.mark.parametrize("case", FAMILIES.values(), ids=FAMILIES)


def make_inputs(case, samples):
    inputs = qwen_inputs(samples, timestamp=2 if case.prompt else 0)
    if case.family.name == "qwen2.5-vl" and "video_grid_thw" in inputs:
        inputs["second_per_grid_ts"] = torch.linspace(0.5, 2, len(inputs["video_grid_thw"]))
    return inputs


def full_length_logits(model, inputs, generated, placed, *, merge_residuals=True):
    """Logits [batch, queries + generated, vocabulary] of upstream's forward over all tokens, without a cache.

    Hooks hide the keys of pruned tokens from the layers that do not process them, and write recycled tokens over their
    anchors: in the hidden states where the first stage begins, and in what is added to them after later layers.
    """
    decoder = model.model.language_model
    text, present = torch.zeros_like(generated), torch.ones_like(generated)
    following = {"input_ids": generated, "mm_token_type_ids": text, "attention_mask": present}
    longer = {name: torch.cat([inputs[name], more], dim=1) for name, more in following.items()}
    batch, queries = longer["input_ids"].shape
    causal = torch.ones(queries, queries, dtype=torch.bool).tril()

    def add_residuals(module, args, kwargs):
        rows, values = kwargs.get("visual_pos_masks"), list(kwargs.get("deepstack_visual_embeds") or [])
        for layer, value in enumerate(values):
            full = torch.zeros(batch, queries, value.shape[-1])
            full[rows] = value
            values[layer] = merged(full, [entry for entry in placed if entry[2].boundaries[0] <= layer])[rows]
        return args, kwargs | ({"deepstack_visual_embeds": values} if values and merge_residuals else {})

    def hide(index):
        def hook(module, args, kwargs):
            seen = longer["attention_mask"].bool().clone()
            for sample, rows, plan in placed:
                for boundary, kept in zip(plan.boundaries, plan.kept, strict=True):
                    if boundary <= index:
                        seen[sample, np.setdiff1d(rows, rows[np.asarray(kept)])] = False
            visible = causal[None] & seen[:, None] | torch.eye(queries, dtype=torch.bool)
            mask = torch.zeros(batch, 1, queries, queries).masked_fill(~visible[:, None], torch.finfo().min)
            hidden = merged(args[0], [entry for entry in placed if entry[2].boundaries[0] == index])
            return (hidden,), kwargs | {"attention_mask": mask}

        return hook

    with ExitStack() as stack, torch.no_grad():
        stack.callback(decoder.register_forward_pre_hook(add_residuals, with_kwargs=True).remove)
        for index, layer in enumerate(decoder.layers):
            stack.callback(layer.register_forward_pre_hook(hide(index), with_kwargs=True).remove)
        return model(**inputs | longer, use_cache=False).logits


def pruned(model, inputs, strategy, **options):
    """Generated ids without placeholders (which would be taken for images), raw logits per step, and placed plans."""
    with prune(model, strategy) as pruning, torch.no_grad():
        out = model.generate(
            **inputs,
            max_new_tokens=STEPS + 1,
            do_sample=False,
            suppress_tokens=[IMAGE, VIDEO],
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )
        placed = place(inputs["input_ids"], pruning.plan, (IMAGE, VIDEO))
        lengths = pruning.report.sequence_lengths
    assert [layer.keys.shape[-2] - STEPS for layer in out.past_key_values.layers] == list(lengths)
    return out.sequences[:, inputs["input_ids"].shape[1] : -1], torch.stack(out.logits, dim=1), placed


def check(case, attention, samples, strategy):
    model, inputs = case.model(attention), make_inputs(case, samples)
    generated, got, placed = pruned(model, inputs, strategy)
    assert [sample for sample, *_ in placed] == [i for i, shapes in enumerate(samples) for _ in shapes]
    expected = full_length_logits(model, inputs, generated, placed)[:, -(STEPS + 1) :]
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-5
    assert expected.abs().max() > 0.1  # the bound means something


@pytest.mark.parametrize("attention", ["sdpa", *repeats("eager")])
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize("samples", CASES.values(), ids=CASES)
@pytest.mark.parametrize("case", [qwen2_5_vl.CASE, qwen3_vl.CASE], ids=["qwen2.5-vl", "qwen3-vl"])
def test_staged_pruning_equals_the_oracle(case, samples, strategy, attention):
    check(case, attention, samples, strategy)


@pytest.mark.parametrize("samples", [CASES["image"], CASES["ragged batch"]], ids=["image", "ragged batch"])
def test_a_mixture_of_experts_equals_the_oracle(samples):
    check(qwen3_vl_moe.CASE, "sdpa", samples, STRATEGIES["0, 2, 4"])


@families
def test_the_oracle_tells_pruned_from_unpruned(case):
    model, inputs = case.model("sdpa"), make_inputs(case, CASES["image"])
    generated, got, _ = pruned(model, inputs, STRATEGIES["0, 2, 4"])
    assert (full_length_logits(model, inputs, generated, [])[:, -STEPS - 1 :] - got).abs().max() > 1e-2


@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
def test_the_oracle_tells_merged_residuals_from_the_anchors_own(strategy):
    case = qwen3_vl.CASE
    model, inputs = case.model("sdpa"), make_inputs(case, CASES["image"])
    generated, got, placed = pruned(model, inputs, strategy)
    other = full_length_logits(model, inputs, generated, placed, merge_residuals=False)[:, -STEPS - 1 :]
    assert (other - got).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@families
def test_retention_one_is_bitwise_upstream(case, attention):
    model, inputs = case.model(attention), make_inputs(case, CASES["ragged batch"])
    keep = Strategy.vflowopt(num_layers=LAYERS, retention=(1.0, 1.0, 1.0), threshold=1.5, entropy_weight=0.3)
    with torch.no_grad():
        logits = model(**inputs).logits
        with prune(model, keep) as pruning:
            assert torch.equal(model(**inputs).logits, logits)
            assert pruning.report.retention == 1.0
        with prune(model, STRATEGIES["1, 5"]):
            model(**inputs)
        assert torch.equal(model(**inputs).logits, logits)  # nothing is left behind


@families
def test_beams_with_a_cache_equal_a_fresh_prefill_per_token(case):
    model, inputs = case.model("sdpa"), make_inputs(case, CASES["ragged batch"])
    options = {"max_new_tokens": 4, "suppress_tokens": [IMAGE, VIDEO], "do_sample": False, "num_beams": 3}
    with prune(model, STRATEGIES["0, 2, 4"]), torch.no_grad():
        found = [model.generate(**inputs, **options, use_cache=use_cache) for use_cache in (True, False)]
    assert torch.equal(*found)


@families
def test_the_evaluator_scores_what_prune_computes(case):
    model, inputs = case.model("sdpa"), make_inputs(case, [[(60, 84), (4, 24, 36)]])
    states = []
    handle = model.model.language_model.register_forward_hook(
        lambda module, args, out: states.append(out.last_hidden_state[0, -1].double())
    )
    with torch.no_grad():
        model(**inputs)
        with prune(model, STRATEGIES["1, 5"]):
            model(**inputs)
    handle.remove()
    full, short = states
    expected = float((full * short).sum() / full.norm() / short.norm())
    score = find_adapter(model).evaluator(model, [inputs]).evaluate(STRATEGIES["1, 5"]).score
    assert score == pytest.approx(expected, abs=1e-5)
    assert score < 1 - 1e-4
