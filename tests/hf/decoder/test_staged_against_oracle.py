"""Staged pruning against the explicit-mask oracle: what is special to LLaVA-OneVision, beside the conformance kit."""

import pytest
import torch

from support.masked_oracle import oracle_logits, place, unpruned_embeddings
from support.tiny import IMAGE, LAYERS, VIDEO, image_inputs, tiny_onevision
from vflowopt import Strategy, prune

STEPS = 20
STRATEGIES = {
    "recycling and entropy": Strategy.vflowopt(
        num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, entropy_weight=0.5, cell=2.5
    ),
    "recycling inside the decoder": Strategy.vflowopt(num_layers=LAYERS, retention=(0.3, 0.7), stages=(1, 5), cell=3.0),
}


def check(model, inputs, strategy, *, text_only=()):
    """Prefill and every decode step agree with the oracle, and the cache has the planned lengths."""
    embeddings = unpruned_embeddings(model, inputs)
    with prune(model, strategy) as pruning, torch.no_grad():
        out = model.generate(
            **inputs, max_new_tokens=STEPS + 1, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        report, plans = pruning.report, pruning.plan
    placed = place(inputs["input_ids"], plans, (IMAGE, VIDEO))
    generated = out.sequences[:, inputs["input_ids"].shape[1] : -1]
    with torch.no_grad():
        full = torch.cat([embeddings, model.get_input_embeddings()(generated)], dim=1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(generated)], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    expected = oracle_logits(model, full, mask, placed, positions)[:, -(STEPS + 1) :]
    got = torch.stack(out.logits, dim=1)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-5
    assert expected.abs().max() > 0.1  # the bound means something

    text = [int(inputs["attention_mask"][b].sum()) for b in range(len(mask))]
    for sample, rows, _ in placed:
        text[sample] -= len(rows)
    for layer, cached in enumerate(out.past_key_values.layers):
        stage = [index for index, boundary in enumerate(strategy.schedule.boundaries) if boundary <= layer]
        if stage:
            rows = [
                text[b] + sum(plan.counts[stage[-1]] for sample, _, plan in placed if sample == b)
                for b in range(len(mask))
            ]
            planned = max(rows)
        else:
            planned = inputs["input_ids"].shape[1]
        assert cached.keys.shape[-2] == planned + STEPS
        assert cached.get_seq_length() == inputs["input_ids"].shape[1] + STEPS
        assert report.sequence_lengths[layer] == planned
    return out, report


def test_interpolated_grid():
    """A large image under a small anyres budget: the token grid is a bilinear resampling of the patch grid."""
    model = tiny_onevision(aspect="anyres_max_1")
    inputs = image_inputs(model, [[(84, 84)], [(120, 40)]])
    _, report = check(model, inputs, STRATEGIES["recycling and entropy"])
    assert report.units[0].tokens < 49 + 14 * 14  # interpolation took place


def test_equal_batches_keep_the_mask_free_path(monkeypatch):
    """Samples with the same counts need no explicit mask, so sdpa keeps its causal fast path in every layer."""
    model = tiny_onevision("sdpa")
    masks = []
    for layer in model.model.language_model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
        )
    inputs = image_inputs(model, [[(84, 84)]])
    inputs = {name: torch.cat([value, value]) for name, value in inputs.items()}
    check(model, inputs, STRATEGIES["recycling and entropy"])
    pruned_layers = [mask for mask in masks if mask is not None and mask.shape[-1] < inputs["input_ids"].shape[1]]
    assert pruned_layers == []


def test_padding_is_dropped_with_the_pruned_tokens():
    """A short text beside a long image is not dragged along as padding."""
    model = tiny_onevision()
    inputs = image_inputs(model, [[(84, 84)], []])
    _, report = check(model, inputs, STRATEGIES["recycling and entropy"])
    assert report.sequence_lengths[0] < inputs["input_ids"].shape[1] / 2


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_equal_lengths_with_different_images(attention):
    """No padding and no mask before pruning, but different numbers of retained tokens after it."""
    model = tiny_onevision(attention)
    longer = image_inputs(model, [[(84, 84)]], text=5)
    missing = longer["input_ids"].shape[1] - image_inputs(model, [[(42, 42)]], text=0)["input_ids"].shape[1]
    shorter = image_inputs(model, [[(42, 42)]], text=missing, seed=1)
    views = longer["pixel_values"].shape[1] - shorter["pixel_values"].shape[1]
    padded = torch.nn.functional.pad(shorter["pixel_values"], (0, 0, 0, 0, 0, 0, 0, views))
    inputs = {name: torch.cat([longer[name], shorter[name]]) for name in ("input_ids", "attention_mask", "image_sizes")}
    inputs["pixel_values"] = torch.cat([longer["pixel_values"], padded])
    assert inputs["attention_mask"].all()
    check(model, inputs, STRATEGIES["recycling and entropy"])
    check(model, inputs, STRATEGIES["recycling inside the decoder"])
