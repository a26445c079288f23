"""What pruning adds to a decoding step, counted in operators: nothing per layer."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlavaOnevisionForConditionalGeneration

from support.tiny import image_inputs, tiny_onevision
from vflowopt import Strategy, prune

EQUAL, UNEQUAL = [[(42, 42)]], [[(42, 42)], [(30, 60)], []]
STAGES = (1, 2, 4)


class Counted(TorchDispatchMode):
    """Number of operators that are dispatched."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operators(model, inputs, cache):
    """Of the second decoding step."""
    mask = inputs["attention_mask"]
    for _ in range(2):
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        step = {"input_ids": torch.full((len(mask), 1), 7), "position_ids": mask.sum(1, keepdim=True) - 1}
        if not inputs["attention_mask"].all():
            step["attention_mask"] = mask
        with torch.no_grad(), Counted() as counted:
            model(**step, past_key_values=cache)
    return counted.count


def added(layers, samples, attention):
    """Operators of a pruned step beyond those of an unpruned one."""
    config = copy.deepcopy(tiny_onevision(attention).config)
    config.text_config.num_hidden_layers, config.text_config.layer_types = layers, ["full_attention"] * layers
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    inputs = image_inputs(model, samples)
    strategy = Strategy.vflowopt(num_layers=layers, retention=(0.4, 0.6, 0.5), stages=STAGES, threshold=1.2, cell=2.5)
    with torch.no_grad():
        full = model(**inputs, use_cache=True).past_key_values
        with prune(model, strategy):
            pruned = model(**inputs, use_cache=True).past_key_values
    with prune(model, strategy):
        found = operators(model, inputs, pruned)
    return found - operators(model, inputs, full)


def test_a_step_without_masks_costs_no_operator():
    assert added(6, EQUAL, "sdpa") == 0


@pytest.mark.parametrize(("samples", "attention"), [(UNEQUAL, "sdpa"), (UNEQUAL, "eager"), (EQUAL, "eager")])
def test_masks_cost_a_few_operators_per_stage_however_many_layers(samples, attention):
    costs = [added(layers, samples, attention) for layers in (6, 9)]
    assert costs[0] == costs[1] <= 9 * len(STAGES)
    assert costs[0] > 0
