"""One layer's attention read from query and key, for every kind of mask, against loops in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GptOssConfig, InternVLConfig, InternVLForConditionalGeneration

from support.cases import internvl
from support.tiny import sharpen
from vflowopt import Progressive, Strategy
from vflowopt.errors import UnsupportedOperationError
from vflowopt.methods import FastV
from vflowopt_hf.plans import decoder_attention
from vflowopt_hf.plans.decoder_attention import AttentionCall
from vflowopt_hf.testing.subject import Subject

BATCH, HEADS, GROUPS, ROWS, SLOTS, SIZE, SAMPLE = 2, 6, 2, 5, 9, 4, 1
CHOSEN, WEIGHTS = [4, 0, 2], [1.0, 0.5, 0.0]


@pytest.fixture
def states():
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(BATCH, HEADS, ROWS, SIZE, generator=generator)
    return 3 * query, torch.randn(BATCH, GROUPS, SLOTS, SIZE, generator=generator)


def loops(query, key, seen, heads, sinks=(-np.inf,) * HEADS):
    """``seen(head, row, slot)`` says what a row sees, or by what its score is shifted; sinks are scores of no slot."""
    total = np.zeros(SLOTS)
    for row, weight in zip(CHOSEN, WEIGHTS, strict=True):
        each = []
        for head in range(HEADS):
            keys = key[SAMPLE, head // (HEADS // GROUPS)].double().numpy()
            scores = keys @ query[SAMPLE, head, row].double().numpy() * 0.7
            shift = np.array([seen(head, row, slot) for slot in range(SLOTS)], dtype=float)
            shares = np.exp(scores - scores.max()) * np.exp(shift)
            each.append(shares / (shares.sum() + np.exp(float(sinks[head]) - scores.max())))
        total += weight * (np.mean(each, axis=0) if heads == "mean" else np.max(each, axis=0))
    return total


def causal(row, slot):
    return slot <= row + SLOTS - ROWS


def hidden(visible):
    return 0.0 if visible else -np.inf


random = torch.rand(BATCH, HEADS, ROWS, SLOTS + 2, generator=torch.Generator().manual_seed(1))
PADDED = torch.ones(BATCH, SLOTS, dtype=torch.int64)
PADDED[SAMPLE, :2] = 0
SEEN = random[:, :1] < 0.6
SEEN[..., 0] = True

MASKS = {
    "plain causal": (None, None, lambda head, row, slot: hidden(causal(row, slot))),
    "window": (None, 3, lambda head, row, slot: hidden(causal(row, slot) and slot > row + SLOTS - ROWS - 3)),
    "flash": (PADDED, None, lambda head, row, slot: hidden(causal(row, slot) and slot >= 2)),
    "boolean": (SEEN, 3, lambda head, row, slot: hidden(bool(SEEN[SAMPLE, 0, row, slot]))),
    "boolean, shared": (SEEN[:1], None, lambda head, row, slot: hidden(bool(SEEN[0, 0, row, slot]))),
    "additive, per head": (random, None, lambda head, row, slot: float(random[SAMPLE, head, row, slot])),
}


@pytest.mark.parametrize("heads", ["mean", "max"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("block", [1, 1 << 22], ids=["blocks", "at once"])
def test_every_kind_of_mask(states, mask, heads, block, monkeypatch):
    monkeypatch.setattr(decoder_attention, "_BLOCK", block)
    given, window, seen = MASKS[mask]
    call = AttentionCall(*states, scaling=0.7, mask=given, window=window)
    got = call.received(SAMPLE, torch.tensor(CHOSEN), torch.tensor(WEIGHTS), heads)
    np.testing.assert_allclose(got.numpy(), loops(*states, seen, heads), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", ["plain causal", "flash", "boolean"])
def test_a_bias_of_keys(states, mask):
    given, window, seen = MASKS[mask]
    bias = torch.rand(BATCH, SLOTS, generator=torch.Generator().manual_seed(2))
    call = AttentionCall(*states, scaling=0.7, mask=given, window=window, bias=bias)
    got = call.received(SAMPLE, torch.tensor(CHOSEN), torch.tensor(WEIGHTS))
    expected = loops(*states, lambda head, row, slot: seen(head, row, slot) + float(bias[SAMPLE, slot]), "mean")
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_masks_that_are_no_tensors(states):
    call = AttentionCall(*states, scaling=1.0, mask=object())
    with pytest.raises(UnsupportedOperationError, match="masks of type object"):
        call.received(0, torch.tensor([0]), torch.ones(1))


@pytest.mark.parametrize("heads", ["mean", "max"])
def test_a_sink_takes_its_share_of_every_heads_attention(states, heads):
    sinks = torch.tensor([-3.0, 0.0, 1.0, 2.0, 4.0, 30.0])
    call = AttentionCall(*states, scaling=0.7, mask=None, sinks=sinks)
    got = call.received(SAMPLE, torch.tensor(CHOSEN), torch.tensor(WEIGHTS), heads)
    expected = loops(*states, lambda head, row, slot: hidden(causal(row, slot)), heads, sinks)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-6)


def with_sinks():
    """InternVL with GPT-OSS's decoder, in which a head's sink takes nearly all."""
    vision, text = (
        internvl.tiny_internvl().config.vision_config,
        GptOssConfig(
            hidden_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=12,
            intermediate_size=64,
            vocab_size=64,
            num_local_experts=2,
            num_experts_per_tok=1,
            pad_token_id=0,
            eos_token_id=4,
            bos_token_id=None,
            sliding_window=4096,
        ),
    )
    torch.manual_seed(0)
    config = InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=internvl.IMAGE, attn_implementation="eager"
    )
    model = InternVLForConditionalGeneration(config).eval()
    sharpen(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("sinks"):
                parameter.copy_(torch.tensor([40.0, -3.0, 1.0, 0.0]))
            elif "experts" in name:
                parameter.normal_(std=0.1)
    return model


def test_methods_rank_by_the_attention_that_sinks_leave():
    model = with_sinks()
    own = Subject(replace(internvl.CASE, model=lambda *_args, **_options: model), "eager")
    batch, layer = own.batch(own.image(1)), 2
    with torch.no_grad():
        weights = model(**batch.inputs, output_attentions=True).attentions[layer - 1]
        with own.prune(Strategy(scorer=FastV(), schedule=Progressive(stages=(layer,), retention=(0.5,)))) as pruning:
            model(**batch.inputs)
            (plan,) = pruning.plan
    expected = weights[0, :, -1, batch.placed[0].rows].mean(dim=0)
    np.testing.assert_allclose(plan.importance, expected, atol=1e-6)
    assert weights[0, 0, -1].sum() < 1e-3
