"""bfloat16 and float16: pruned forwards agree with the explicit-mask oracle to the rounding of the dtype."""

import pytest
import torch

from support.generating import generate
from support.masked_oracle import oracle_logits, place, unpruned_embeddings
from support.tiny import IMAGE, LAYERS, VIDEO, image_inputs, tiny_onevision
from vflowopt import Strategy, prune

STEPS = 8
STRATEGY = Strategy.vflowopt(
    num_layers=LAYERS, retention=(0.4, 0.6, 0.5), threshold=1.2, entropy_weight=0.5, diversity=0.4, cell=2.5
)
BATCHES = {"one": [[(80, 60)]], "unequal": [[(42, 42)], [(30, 120), (50, 50)], []]}
ROUNDINGS = 4
"""Units of the dtype's rounding, relative to the largest logit, by which two orders of summation may differ here."""


@pytest.mark.parametrize("samples", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_prefill_and_decoding_agree_with_the_oracle(dtype, attention, samples):
    model = tiny_onevision(attention).to(dtype)
    inputs = {
        name: value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in image_inputs(model, samples).items()
    }
    with prune(model, STRATEGY) as pruning:
        output = generate(model, inputs, STEPS + 1)
        plans = pruning.plan
    logits = torch.stack(output.logits, dim=1)
    assert logits.isfinite().all()
    generated = output.sequences[:, inputs["input_ids"].shape[1] :][:, :STEPS]
    embeddings = model.get_input_embeddings()(generated)
    full = torch.cat([unpruned_embeddings(model, inputs), embeddings], dim=1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(generated)], dim=1)
    placed = place(inputs["input_ids"], plans, (IMAGE, VIDEO))
    expected = oracle_logits(model, full, mask, placed, (mask.cumsum(1) - 1).clamp(min=0))[:, -(STEPS + 1) :]
    difference = (logits - expected).float().abs().max() / expected.float().abs().max()
    assert difference <= ROUNDINGS * torch.finfo(dtype).eps
